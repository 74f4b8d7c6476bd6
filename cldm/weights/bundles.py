"""Weights together with the files that other programs expect beside them: all of these or none."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cldm.weights.saving import (
    PICKLED,
    check_free,
    check_output,
    check_parent,
    save_weights,
    unfinished_beside,
    written_whole,
)

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
"""The two names that diffusers' from_pretrained looks for."""


def check_file(path: str | Path, suffixes: tuple[str, ...]) -> Path:
    """The path, if a file of weights can be saved there with others of the same name that end in `suffixes`.

    Raises:
        FileExistsError: If there is one of them already.
        FileNotFoundError: If the folder does not exist.
        ValueError: If the name does not end as a format's does.
    """
    path = check_output(path)
    for suffix in suffixes:
        check_free(path.with_suffix(suffix))
    return path


def check_folder(path: str | Path) -> Path:
    """The path, if a folder can be made there.

    Raises:
        FileExistsError: If there is something already, an empty folder included.
        FileNotFoundError: If the folder that it is to be in does not exist.
        ValueError: If the name is a file's.
    """
    path = Path(path).expanduser()
    if path.suffix in (".safetensors", *PICKLED):
        raise ValueError(f"expected the name of a folder to make, got {path}")
    check_free(path)
    check_parent(path)
    return path


def save_file_with(weights: Mapping[str, Tensor], path: str | Path, beside: Mapping[str, str]) -> list[Path]:
    """Write weights, and texts under the same name with other endings.

    Args:
        weights: See `save_weights`.
        path: See `save_weights`.
        beside: Ending, such as ".yaml", -> text.

    Returns:
        What was written, the weights first.

    Raises:
        FileExistsError: If there is one of the files already.
        FileNotFoundError: If the folder does not exist.
        ValueError: If the name does not end as a format's does.
    """
    path = check_file(path, tuple(beside))
    written: list[Path] = []
    try:
        for suffix, text in beside.items():
            written.append(_write(text, path.with_suffix(suffix)))
        written.insert(0, save_weights(weights, path))
    except BaseException:
        for file in written:
            file.unlink()
        raise
    return written


def save_diffusers_folder(weights: Mapping[str, Tensor], config: Mapping[str, Any], path: str | Path) -> list[Path]:
    """Write what diffusers' `ControlNetModel.from_pretrained` loads.

    Args:
        weights: In diffusers' names.
        config: The model's arguments.
        path: Folder to make; it has another name until it is complete.

    Returns:
        What was written, the weights first.

    Raises:
        FileExistsError: If there is something already.
        FileNotFoundError: If the folder that it is to be in does not exist.
        ValueError: If the name is a file's.
    """
    path = check_folder(path)
    unfinished = unfinished_beside(path)
    unfinished.mkdir()
    try:
        save_weights(weights, unfinished / WEIGHTS)
        (unfinished / CONFIG).write_text(as_json(config))
        check_folder(path)
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return [path / WEIGHTS, path / CONFIG]


def as_json(config: Mapping[str, Any]) -> str:
    """The text of a config.json."""
    return json.dumps(config, indent=2) + "\n"


def _write(text: str, path: Path) -> Path:
    with written_whole(path) as unfinished:
        unfinished.write_text(text)
    return path
