"""Folders in Fill50K's format: finding one, and its rows.

`prompt.json` has one JSON object a line, {"source": "source/0.png", "target": "target/0.png", "prompt": "..."}; the
images' paths start from the folder that it is in, or are absolute. A source may be a list of paths, whose channels are
stacked.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from cldm.data.errors import DataError

PROMPTS_FILE = "prompt.json"
_KEYS = ("source", "target", "prompt")
_SEARCHED = ("", "*/", "*/*/")  # the folder itself, one above it, a zip that brought a folder of its own


@dataclass(frozen=True)
class Row:
    """One row of a dataset.

    Attributes:
        file: The `prompt.json`.
        line: Its line there, counted from 1.
        source: Path of the control map, or several, whose channels are stacked in this order.
        target: Path of the image to be made.
        prompt: May be empty.
    """

    file: Path
    line: int
    source: Path | tuple[Path, ...]
    target: Path
    prompt: str

    @property
    def sources(self) -> tuple[Path, ...]:
        """All of the control map's files."""
        return self.source if isinstance(self.source, tuple) else (self.source,)

    @property
    def label(self) -> str:
        """What it is called in a contact sheet."""
        return str(self.line)

    def name_in_folder(self, file: Path) -> str:
        """A path of this row as it starts from the folder; all of it where it is elsewhere."""
        folder = self.file.parent
        return (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()

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
        DataError: If there are several.
    """
    path = Path(path).expanduser()
    if path.is_file() and path.suffix != ".zip":
        return path
    for folders in _SEARCHED if path.is_dir() else ():
        found = sorted(path.glob(folders + PROMPTS_FILE))
        if len(found) > 1:
            names = ", ".join(str(file.parent) for file in found[:4])
            raise DataError(f"{path} holds {len(found)} datasets; give one of them: {names}")
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
        DataError: If a line is malformed, or there are no rows.
    """
    rows = []
    for row in try_rows(file):
        if isinstance(row, BadRow):
            check = f"python tutorial_dataset.py {quote(str(file.parent))}"
            raise DataError(f"{row}. For a list of all such rows: {check}")
        rows.append(row)
    if not rows:
        raise DataError(f"{file} has no rows; expected one JSON object a line, with {', '.join(_KEYS)}")
    return rows


def try_rows(file: Path) -> Iterator[Row | BadRow]:
    """The rows of a `prompt.json` one by one, bad ones among them."""
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if line.strip():
            try:
                values = _parsed(line)
                given, target = values["source"], file.parent / values["target"]
                source = file.parent / given if isinstance(given, str) else tuple(file.parent / name for name in given)
                yield Row(file, number, source, target, values["prompt"])
            except ValueError as error:
                yield BadRow(file, number, str(error))


def _parsed(line: bytes) -> dict[str, Any]:
    wanted = "expected a JSON object with the texts " + ", ".join(_KEYS)
    try:
        values = json.loads(line)
    except ValueError as error:
        raise ValueError(f"malformed JSON, {error}; {wanted}, all on one line") from error
    if not isinstance(values, dict):
        raise ValueError(f"{wanted}, got {type(values).__name__}")
    for key in _KEYS:
        if key not in values:
            raise ValueError(f"{wanted}, {key} is missing")
        if not isinstance(values[key], str) and not (key == "source" and _is_list_of_texts(values[key])):
            raise ValueError(f"{wanted}, got {key}: {values[key]!r}")
    sources = values["source"] if isinstance(values["source"], list) else [values["source"]]
    if not sources or not all((*sources, values["target"])):
        raise ValueError(f"{wanted}, got an empty path")
    return values


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
