"""Lightning's plugins for the machines that a run is on."""

from typing import Any

from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from cldm.training.state import StateFiles


def plugins() -> list[Any]:
    """How states are written; and on SLURM, that Lightning leaves signals to `StopOnSignal`.

    Lightning's own way there is to save a whole model in the middle of a step, and to have the job queued again.
    """
    by_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()  # torchrun may run inside a job
    return [StateFiles(), *([SLURMEnvironment(auto_requeue=False)] if by_slurm else [])]
