"""Values of all processes of a run, put together."""

from typing import Any

import torch


def of_all_processes(own: Any) -> list[Any]:
    """Every process's value, by rank; to be called in each of them. Values are plain data or tensors on the CPU."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, own)
    return values
