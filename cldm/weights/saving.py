"""Weights to files: whole or not at all, and never over another file."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from cldm.weights.reading import own_storage

PICKLED = (".ckpt", ".pth", ".pt")


def check_output(path: str | Path) -> Path:
    """The path, if weights can be saved there; to be asked before long work.

    Raises:
        FileExistsError: If there is something already.
        FileNotFoundError: If the folder does not exist.
        ValueError: If the name does not end as a format's does.
    """
    path = Path(path).expanduser()
    if path.suffix not in (".safetensors", *PICKLED):
        raise ValueError(f"expected a name that ends in .safetensors, .ckpt, .pth or .pt to save to, got {path}")
    check_free(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to save {path.name} in; make it first")
    return path


def check_free(path: Path) -> None:
    """Check that there is nothing of this name.

    Raises:
        FileExistsError: If there is.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists and is not overwritten; give another name, or remove it first")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` at the end, or nothing is left of it.

    Raises:
        FileExistsError: If there is something of the final name by then.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        check_free(path)
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def save_weights(weights: Mapping[str, Tensor], path: str | Path) -> Path:
    """Write tensors in the format that the name says; a pickle is a plain dictionary of tensors.

    Args:
        weights: On any device. Tensors that share memory are written each for itself.
        path: Ends in .safetensors, .ckpt, .pth or .pt. The file has another name until it is complete.

    Returns:
        `path`.

    Raises:
        FileExistsError: If there is something already.
        FileNotFoundError: If the folder does not exist.
        ValueError: If the name does not end as a format's does.
    """
    path = check_output(path)
    seen: set[int] = set()
    tensors = {name: own_storage(tensor.detach().cpu(), seen) for name, tensor in weights.items()}
    with written_whole(path) as unfinished:
        unfinished.touch()
        mode = unfinished.stat().st_mode  # as any new file's; safetensors writes files that only their owner can read
        if path.suffix == ".safetensors":
            save_file(tensors, unfinished, metadata={"format": "pt"})
        else:
            torch.save(tensors, unfinished)
        unfinished.chmod(mode)
    return path
