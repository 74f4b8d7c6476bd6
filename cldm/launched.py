"""Which process of a run this is, and which device is its own, as torchrun or SLURM says in the environment.

Lightning says the same later, once its trainer has begun; what is done before that asks here.
"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from ldm.util import choose_device


class Launched(NamedTuple):
    """A process among those of a run.

    Attributes:
        rank: Among all, from 0.
        local_rank: Among those of its machine.
        count: Of all.
    """

    rank: int
    local_rank: int
    count: int


_NAMES = (("RANK", "LOCAL_RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"))


def launched(environment: Mapping[str, str] = os.environ) -> Launched:
    """This process; where nothing is said, the only one. Lightning's own processes are told their local rank alone."""
    for names in _NAMES:
        if all(name in environment for name in names):
            return Launched(*(int(environment[name]) for name in names))
    local = int(environment.get("LOCAL_RANK", 0))
    return Launched(local, local, max(int(environment.get("WORLD_SIZE", 1)), local + 1))


def own_device(
    device: str, devices: int | str | Sequence[int] = 1, environment: Mapping[str, str] = os.environ
) -> torch.device:
    """The device on which this process trains.

    Args:
        device: As `choose_device` takes it.
        devices: Lightning's setting: how many, or a list of those to use.
        environment: Of the process.

    Raises:
        ValueError: If the device cannot be used here.
    """
    chosen = choose_device(device)
    if chosen.type != "cuda" or chosen.index is not None:
        return chosen
    listed = devices.split(",") if isinstance(devices, str) else devices
    numbers = [int(number) for number in listed if str(number).strip()] if "," in str(devices) else None
    local_rank = launched(environment).local_rank
    return torch.device(chosen.type, numbers[local_rank % len(numbers)] if numbers else local_rank)


def leave(device: torch.device) -> None:
    """Give back what a device has of memory that is not in use: to training, and to other processes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def deal(places: Sequence[int], environment: Mapping[str, str] = os.environ) -> list[int]:
    """All places, this process's share of them first, so that processes that each do what is left do it together."""
    rank, _, count = launched(environment)
    own = set(places[rank % count :: count])
    return sorted(places, key=lambda place: place not in own)
