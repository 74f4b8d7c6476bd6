"""What `tutorial_train.py` needs besides Lightning."""

from cldm.training.command_line import changed, from_command_line, require
from cldm.training.cost import economise
from cldm.training.saving import SaveControl
from cldm.training.settings import Settings

__all__ = ["SaveControl", "Settings", "changed", "economise", "from_command_line", "require"]
