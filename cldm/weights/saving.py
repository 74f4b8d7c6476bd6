"""Weights to files: whole or not at all, and never over another file unless asked."""

import json
import os
import secrets
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from cldm.weights.reading import own_storage
from cldm.weights.reading import read_metadata as read_metadata  # beside what writes it, for users' scripts

PICKLED = (".ckpt", ".pth", ".pt")


def check_output(path: str | Path, replace: bool = False) -> Path:
    """The path, if weights can be saved there; to be asked before long work.

    Raises:
        FileExistsError: If there is something already, without `replace`.
        FileNotFoundError: If the folder does not exist.
        PermissionError: If nothing can be written there.
        ValueError: If the name does not end as a format's does.
    """
    path = Path(path).expanduser()
    if path.suffix not in (".safetensors", *PICKLED):
        raise ValueError(f"expected a name that ends in .safetensors, .ckpt, .pth or .pt to save to, got {path}")
    if not replace:
        check_free(path)
    check_parent(path)
    return path


def check_parent(path: Path) -> None:
    """Check that there is a folder in which `path` can be made.

    Raises:
        FileNotFoundError: If there is none.
        PermissionError: If nothing can be written there.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to make {path.name} in; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to make {path.name} in {path.parent}; give another folder")


def check_free(path: Path) -> None:
    """Check that there is nothing of this name.

    Raises:
        FileExistsError: If there is.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists and is not overwritten; give another name, or remove it first")


def unfinished_beside(path: Path) -> Path:
    """A temporary name beside `path`, which no other process has, on this machine or another one."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")


@contextmanager
def written_whole(path: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` at the end, or nothing is left of it.

    What is written is on the disk before it gets its name: neither a kill nor a power cut leaves half a file under it.

    Args:
        path: The final name.
        replace: Whether something of this name may be there, which is replaced in one move.

    Raises:
        FileExistsError: If there is something of the final name by then, without `replace`.
    """
    unfinished = unfinished_beside(path)
    try:
        yield unfinished
        with unfinished.open("r+b") as file:  # Windows puts nothing on the disk for those who only read
            os.fsync(file.fileno())
        if not replace:
            check_free(path)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def save_weights(
    weights: Mapping[str, Tensor],
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    replace: bool = False,
) -> Path:
    """Write tensors in the format that the name says; a pickle is a plain dictionary of tensors.

    The same tensors and metadata give the same bytes.

    Args:
        weights: On any device. Tensors that share memory are written each for itself.
        path: Ends in .safetensors, .ckpt, .pth or .pt. The file has another name until it is complete.
        metadata: Texts by name for the header of a .safetensors file; pickles have none.
        replace: Whether a file of this name may be there, which is replaced.

    Returns:
        `path`.

    Raises:
        FileExistsError: If there is something already, without `replace`.
        FileNotFoundError: If the folder does not exist.
        OSError: If it cannot be written, for instance because the disk is full; nothing is left of it then.
        ValueError: If the name does not end as a format's does.
    """
    path = check_output(path, replace)
    seen: set[int] = set()
    tensors = {name: own_storage(tensor.detach().cpu(), seen) for name, tensor in weights.items()}
    with written_whole(path, replace) as unfinished:
        unfinished.touch()
        mode = unfinished.stat().st_mode  # as any new file's; safetensors writes files that only their owner can read
        if path.suffix == ".safetensors":
            _save_safetensors(tensors, unfinished, {"format": "pt", **(metadata or {})})
        else:
            _save_pickle(tensors, unfinished)
        unfinished.chmod(mode)
    return path


def _save_safetensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:  # what the library makes of a full disk, for instance
        raise OSError(f"cannot write {path}: {error}") from error
    _sort_metadata(path)


def _save_pickle(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        with path.open("wb") as file:  # given a path, torch would write its name into the file
            torch.save(tensors, file)
    except RuntimeError as error:  # what torch makes of a full disk
        raise OSError(f"cannot write {path}: {error}") from error


def _sort_metadata(path: Path) -> None:
    """Put the metadata in the order of their names; safetensors writes them in another one each time."""
    with path.open("r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > size:
            raise OSError(f"cannot write {path}: its header is {len(text)} bytes, expected at most {size}")
        file.seek(8)
        file.write(text.ljust(size))
