"""Datasets in Fill50K's format: finding one, its rows, and their images.

`prompt.json` has one JSON object a line, {"source": "source/0.png", "target": "target/0.png", "prompt": "..."}; the
images' paths start from the folder that it is in.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from PIL import Image, ImageOps

PROMPTS_FILE = "prompt.json"
SIZE_STEP = 64  # Stable Diffusion's images have sides that are multiples of it
_KEYS = ("source", "target", "prompt")
_SEARCHED = ("", "*/", "*/*/")  # the folder itself, one above it, a zip that brought a folder of its own
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # modes of Pillow
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for damaged files


@dataclass(frozen=True)
class Row:
    """One row of a dataset.

    Attributes:
        file: The `prompt.json`.
        line: Its line there, counted from 1.
        source: Path of the control map.
        target: Path of the image to be made.
        prompt: May be empty.
    """

    file: Path
    line: int
    source: Path
    target: Path
    prompt: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: its file and line, counted from 1, and what is wrong with it."""

    file: Path
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.problem}"


def find_dataset(path: str | Path) -> Path:
    """The `prompt.json` that a user means.

    Args:
        path: The file itself, its folder, or up to two folders above where that is no choice between several.

    Raises:
        FileNotFoundError: If there is none, with the commands that make one.
        ValueError: If there are several.
    """
    path = Path(path).expanduser()
    if path.is_file() and path.suffix != ".zip":
        return path
    for folders in _SEARCHED if path.is_dir() else ():
        found = sorted(path.glob(folders + PROMPTS_FILE))
        if len(found) > 1:
            names = ", ".join(str(file.parent) for file in found[:4])
            raise ValueError(f"{path} holds {len(found)} datasets; give one of them: {names}")
        if found:
            return found[0]
    raise FileNotFoundError(_how_to_get(path))


def _how_to_get(path: Path) -> str:
    folder = path.parent if path.suffix == ".zip" else path
    archives = [path, path.with_name(f"{path.name}.zip"), *sorted(path.glob("*.zip"))]
    packed = next((file for file in archives if file.is_file()), None)
    if packed:
        unpack = f"python -m zipfile -e {quote(str(packed))} {quote(str(folder))}"
        return f"{packed} is still packed; unpack it:\n    {unpack}"
    folder = path.parent if path.name == PROMPTS_FILE else path
    if (folder / "source").is_dir():
        return f"no {PROMPTS_FILE} in {folder}; if it was being made there, run the same command again to go on"
    return (
        f"no dataset at {path}: expected a folder with {PROMPTS_FILE}, source/ and target/. Make one:\n"
        f"    python tool_make_fill50k.py --output {quote(str(folder))}\n"
        "or unpack the published one there, training/fill50k.zip of https://huggingface.co/lllyasviel/ControlNet"
    )


def read_rows(file: Path) -> list[Row]:
    """All rows of a `prompt.json`; empty lines are none.

    Raises:
        ValueError: If a line is malformed, or there are no rows.
    """
    rows = []
    for row in try_rows(file):
        if isinstance(row, BadRow):
            check = f"python tutorial_dataset.py {quote(str(file.parent))}"
            raise ValueError(f"{row}. For a list of all such rows: {check}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{file} has no rows; expected one JSON object a line, with {', '.join(_KEYS)}")
    return rows


def try_rows(file: Path) -> Iterator[Row | BadRow]:
    """The rows of a `prompt.json` one by one, bad ones among them."""
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if line.strip():
            try:
                values = _parsed(line)
                source, target = file.parent / values["source"], file.parent / values["target"]
                yield Row(file, number, source, target, values["prompt"])
            except ValueError as error:
                yield BadRow(file, number, str(error))


def _parsed(line: bytes) -> dict[str, str]:
    wanted = "expected a JSON object with the texts " + ", ".join(_KEYS)
    try:
        values = json.loads(line)
    except ValueError as error:
        raise ValueError(f"malformed JSON, {error}; {wanted}, all on one line") from error
    if not isinstance(values, dict):
        raise ValueError(f"{wanted}, got {type(values).__name__}")
    for key in _KEYS:
        if not isinstance(values.get(key), str):
            raise ValueError(
                f"{wanted}, got {key}: {values[key]!r}" if key in values else f"{wanted}, {key} is missing"
            )
    if not values["source"] or not values["target"]:
        raise ValueError(f"{wanted}, got an empty path")
    return values


def read_pair(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """A row's source and target, uint8 RGB (h, w, 3), of one size.

    Raises:
        FileNotFoundError: If an image is missing.
        ValueError: If an image is unreadable, their sizes differ or are no multiples of 64. All of them name the row.
    """
    try:
        source, target = read_image(row.source), read_image(row.target)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{row}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{row}: {error}") from error
    problem = size_problem(source.shape[1::-1], target.shape[1::-1])
    if problem:
        raise ValueError(f"{row}: {problem}")
    return source, target


def size_problem(source: tuple[int, int], target: tuple[int, int]) -> str:
    """What is wrong with the sizes, (width, height), of a source and its target; empty if nothing is."""
    if source != target:
        return f"source is {source[0]}x{source[1]} and target {target[0]}x{target[1]}; make them the same size"
    if source[0] % SIZE_STEP or source[1] % SIZE_STEP:
        return f"images are {source[0]}x{source[1]}; resize or crop both sides to multiples of {SIZE_STEP}"
    return ""


def read_image(file: Path) -> np.ndarray:
    """An image file as uint8 RGB (h, w, 3), turned as its camera says; alpha is blended onto white.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no image, damaged, or has more than 8 bits a channel.
    """
    with _reading(file), Image.open(file) as image:
        _check_mode(image)
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))


def check_image(file: Path) -> tuple[int, int]:
    """The size, (width, height), of an image file that is found to be whole.

    PNG files have checksums, so those are compared without decoding, a hundred times faster; others are read.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no image, damaged, or has more than 8 bits a channel.
    """
    with _reading(file), Image.open(file) as image:
        if image.format == "PNG" and "exif" not in image.info:
            _check_mode(image)
            image.verify()
            return image.size
    return read_image(file).shape[1::-1]


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turns whatever Pillow raises into one error that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no image at {file}") from error
    except _UNREADABLE as error:
        raise ValueError(f"cannot read {file} as an image: {error}") from error


def _check_mode(image: Image.Image) -> None:
    if image.mode not in _EIGHT_BIT:
        raise ValueError(
            f"expected 8 bits a channel, got Pillow's mode {image.mode}; convert it, as best suits the data"
        )


class Indexed:
    """A dataset whose items say their place in it as `index`, by which the trained model draws noise and the like.

    Args:
        dataset: Of torch's kind, with a length; its items are dictionaries.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], "index": index}
