"""The processes of a run: values of all of them, put together; their common end."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor

_GRACE = 5.0  # seconds in which processes that fail as well say why


def of_all_processes(own: Any) -> list[Any]:
    """Every process's value, by rank; to be called in each of them. Values are plain data or tensors on the CPU."""
    if not _are_several():
        return [own]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, own)
    return values


def least_of_all_processes(own: Tensor) -> Tensor:
    """The smallest of the processes' numbers, on its device, without waiting for it; all of them have to call this."""
    if _are_several():
        own = own.clone()
        torch.distributed.all_reduce(own, torch.distributed.ReduceOp.MIN)
    return own


@contextmanager
def ending_together(trainer: pl.Trainer) -> Iterator[None]:
    """A block in which this process trains; where it fails, those that Lightning has started for it end as well.

    They may wait for this one in a reduction that does not come. Lightning itself ends them after Ctrl-C alone.
    """
    try:
        yield
    except BaseException:
        if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
            _end(trainer.strategy.launcher.procs)
        raise


def _end(processes: list[subprocess.Popen]) -> None:
    """End processes; the list is emptied first, since Lightning kills this process when one of it has failed."""
    left = processes.copy()
    processes.clear()
    until = time.monotonic() + _GRACE
    for each in left:
        try:
            each.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()


def _are_several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
