"""Values of all processes of a run, put together."""

from typing import Any

import torch
from torch import Tensor


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


def _are_several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
