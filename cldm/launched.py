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


class LaunchError(ValueError):
    """Not as many processes were started as settings ask for."""


_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")
_INTERACTIVE = ("bash", "interactive")  # jobs of these names are shells, in which Lightning starts its own processes


def launched(environment: Mapping[str, str] = os.environ) -> Launched:
    """This process; where nothing is said, the only one. Lightning's own processes are told their local rank alone."""
    told = _told(environment)
    if told is not None:
        return told
    local = int(environment.get("LOCAL_RANK", 0))
    return Launched(local, local, max(int(environment.get("WORLD_SIZE", 1)), local + 1))


def _told(environment: Mapping[str, str]) -> Launched | None:
    """What torchrun or SLURM says, if one of them has started this process."""
    of_shell = environment.get("SLURM_JOB_NAME") in _INTERACTIVE
    for names in (_TORCHRUN,) if of_shell else (_TORCHRUN, _SLURM):
        if all(name in environment for name in names):
            return Launched(*(int(environment[name]) for name in names))
    return None


def check_count(
    device: str,
    devices: int | str | Sequence[int] = 1,
    num_nodes: int = 1,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Check that torchrun or SLURM, if one of them has started this process, has started as many as settings ask for.

    With fewer asked for than started, Lightning trains in each of them as if it were alone.

    Args:
        device: As `choose_device` takes it.
        devices: Lightning's setting: how many of a machine, a list of those to use, or auto.
        num_nodes: Machines.
        environment: Of the process.

    Raises:
        LaunchError: If there are more or fewer.
    """
    told = _told(environment)
    if told is None:
        return
    if str(devices) in ("auto", "-1"):
        own = torch.cuda.device_count() if choose_device(device).type == "cuda" else 1
    else:
        numbers = _numbers(devices)
        own = int(devices) if numbers is None else len(numbers)
    if told.count != own * num_nodes:
        raise LaunchError(
            f"torchrun or SLURM has started processes: {told.count}, but the settings ask for {own * num_nodes} "
            f"(devices={devices} num_nodes={num_nodes}): set devices=N, processes of each machine, and num_nodes=M, "
            f"the machines, so that N x M is {told.count}, or start {own * num_nodes}"
        )


def _numbers(devices: int | str | Sequence[int]) -> list[int] | None:
    """The devices of a list, as Lightning's setting has it; None where it is a number of them, or auto."""
    listed = devices.split(",") if isinstance(devices, str) else devices
    return [int(number) for number in listed if str(number).strip()] if "," in str(devices) else None


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
    numbers = _numbers(devices)
    local_rank = launched(environment).local_rank
    return torch.device(chosen.type, numbers[local_rank % len(numbers)] if numbers else local_rank)


def leave(device: torch.device) -> None:
    """Give back what a device has of memory that is not in use: to training, and to other processes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def deal(places: Sequence[int], environment: Mapping[str, str] = os.environ) -> list[int]:
    """All places, this process's share of them first, so that processes that each do what is left do it together.

    The others' shares follow, each from its end, to which the process that it belongs to comes last.
    """
    rank, _, count = launched(environment)
    shares = [places[(rank + turn) % count :: count] for turn in range(count)]
    return [*shares[0], *(place for share in shares[1:] for place in reversed(share))]
