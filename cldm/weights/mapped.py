"""Weights that are mapped from .safetensors files, given back to their files for a while.

A mapped tensor takes memory once it is read, and its pages stay a part of the process. Where that matters, a network
that is not in use lets its weights go, and maps them again afterwards, which reads nothing.
"""

import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn


class _Origin(NamedTuple):
    """Where a tensor is mapped from: a file, as it was then, and the name in it."""

    file: Path
    identity: tuple[int, ...]
    name: str


_Mapped = tuple[nn.Parameter, _Origin, torch.Size]
"""A parameter, where it is from, and the shape in which it is used."""

_ByNetwork = dict[tuple[Path, tuple[int, ...], str], list[_Mapped]]
"""By what is mapped together: file, its identity, and the first part of the names."""

_SAMPLES = 8  # values of a tensor that are compared with its file's; each costs the reading of a page

_origins: dict[int, _Origin] = {}
"""By the address of the storage."""


def mapped_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file by name, on the CPU, each in a storage of its own.

    What belongs to one network, told by the first part of a name, is mapped together, so that its memory is free once
    all of it is let go.
    """
    tensors: dict[str, Tensor] = {}
    file, identity = file.resolve(), _identity(file)
    with safe_open(file, framework="pt", device="cpu") as content:
        names = list(content.keys())
    by_network = defaultdict(list)
    for name in names:
        by_network[_network_of(name)].append(name)
    for own in by_network.values():
        with safe_open(file, framework="pt", device="cpu") as content:
            for name in own:
                tensors[name] = content.get_tensor(name)
                _remember(tensors[name], _Origin(file, identity, name))
    return {name: tensors[name] for name in names}


@contextmanager
def let_go(*networks: nn.Module) -> Iterator[None]:
    """Have the weights of networks that nobody uses meanwhile take no memory, if they are as they are in their files.

    What was converted, changed in place or moved stays; so does what was read from a file that is not there any more,
    or was written anew.

    Args:
        networks: Their parameters are the same objects afterwards, on memory that is mapped anew. Changes that were
            made to `parameter.data` in place, which PyTorch does not count, are seen by a few values across each
            tensor: those of a whole tensor stay, those of single values may be lost.

    Raises:
        RuntimeError: If a file was replaced or removed meanwhile.
    """
    gone: _ByNetwork = {}
    try:
        for key, own in _mapped(networks).items():  # one after the other, since comparing them takes memory
            gone[key] = _as_in_file(key[0], own)
            for parameter, _, _ in gone[key]:
                parameter.data = torch.empty(0, dtype=parameter.dtype)
        yield
    finally:
        lost = {file for file, identity, _ in gone if not _is_there(file, identity)}
        for (file, _, _), own in gone.items():
            if file in lost:
                continue
            with safe_open(file, framework="pt", device="cpu") as content:
                for parameter, origin, shape in own:
                    tensor = content.get_tensor(origin.name)
                    parameter.data = tensor.view(shape)
                    _remember(tensor, origin)
        for file in lost:
            raise RuntimeError(f"{file} was replaced or removed while its weights were not in use: load it again")


def _mapped(networks: Sequence[nn.Module]) -> _ByNetwork:
    """The parameters that nobody has visibly changed, converted or moved."""
    mapped: _ByNetwork = defaultdict(list)
    for network in networks:
        for parameter in network.parameters():
            if (origin := _origin_of(parameter)) is not None:
                key = origin.file, origin.identity, _network_of(origin.name)
                mapped[key].append((parameter, origin, parameter.shape))
    return mapped


def _as_in_file(file: Path, mapped: Sequence[_Mapped]) -> list[_Mapped]:
    """Those whose samples are the file's."""
    with safe_open(file, framework="pt", device="cpu") as content:
        return [
            (parameter, origin, shape)
            for parameter, origin, shape in mapped
            if torch.equal(_samples(parameter), _samples(content.get_tensor(origin.name)))
        ]


def _samples(tensor: Tensor) -> Tensor:
    flat = tensor.detach().flatten()
    return flat[:: max(1, len(flat) // _SAMPLES)]


def _network_of(name: str) -> str:
    return name.partition(".")[0] if "." in name else ""


def _remember(tensor: Tensor, origin: _Origin) -> None:
    storage = tensor.untyped_storage()
    if address := storage.data_ptr():
        _origins[address] = origin
        weakref.finalize(storage, _origins.pop, address, None).atexit = False


def _origin_of(parameter: nn.Parameter) -> _Origin | None:
    """From where it can be mapped again."""
    storage = parameter.untyped_storage() if parameter.device.type == "cpu" else None
    origin = None if storage is None else _origins.get(storage.data_ptr())
    unchanged = parameter._version == 0 and parameter.is_contiguous() and parameter.grad is None
    if origin is None or not unchanged or storage.nbytes() != parameter.nbytes:
        return None
    return origin if _is_there(origin.file, origin.identity) else None


def _is_there(file: Path, identity: Any) -> bool:
    return file.is_file() and _identity(file) == identity


def _identity(file: Path) -> tuple[int, ...]:
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
