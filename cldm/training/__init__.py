"""What `tutorial_train.py` needs besides Lightning."""

from cldm.data import DataError
from cldm.data.watch import WorkerFailure
from cldm.launched import LaunchError
from cldm.training.command_line import changed, from_command_line, require
from cldm.training.cost import economise
from cldm.training.first_step import FirstStep
from cldm.training.loading import TrainingData
from cldm.training.machines import plugins
from cldm.training.progress import Progress
from cldm.training.run_folder import open_run
from cldm.training.saving import SaveControl
from cldm.training.settings import Settings
from cldm.training.state import StateError
from cldm.training.stopping import StopOnSignal

PLAIN_ERRORS = (
    FileExistsError,
    FileNotFoundError,
    FloatingPointError,
    DataError,
    WorkerFailure,
    LaunchError,
    StateError,
)
"""Errors whose messages say all; a script shows them without a traceback."""

__all__ = [
    "PLAIN_ERRORS",
    "FirstStep",
    "Progress",
    "SaveControl",
    "Settings",
    "StopOnSignal",
    "TrainingData",
    "changed",
    "economise",
    "from_command_line",
    "open_run",
    "plugins",
    "require",
]
