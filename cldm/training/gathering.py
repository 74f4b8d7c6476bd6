"""Values of all processes of a run, brought together."""

from typing import TypeVar

import torch

Value = TypeVar("Value")


def from_all_processes(own: Value) -> list[Value]:
    """What each process gives, in the order of their ranks; all of them have to call this.

    Args:
        own: This process's, anything that can be pickled.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    gathered: list[Value | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return gathered
