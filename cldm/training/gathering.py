"""Values of all processes of a run, brought together."""

from typing import TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


def least_of_all_processes(own: Tensor) -> Tensor:
    """The smallest of the processes' numbers, on its device, without waiting for it; all of them have to call this."""
    if _are_several():
        own = own.clone()
        torch.distributed.all_reduce(own, torch.distributed.ReduceOp.MIN)
    return own


def from_all_processes(own: Value) -> list[Value]:
    """What each process gives, in the order of their ranks; all of them have to call this.

    Args:
        own: This process's, anything that can be pickled.
    """
    if not _are_several():
        return [own]
    gathered: list[Value | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def _are_several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
