"""A record as JSON and back; what comes from a file is checked, never trusted and never run."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from cldm.records.record import MOST_TEXT, ControlMap, Record, Runtime, WeightsFile
from cldm.settings import Settings

FORMAT = 1  # to be raised when older versions would misread what is written
_MOST_ENTRIES = 100  # of one mapping or list
_LONGEST_SIDE = 4096

PngChunks = dict[str, bytes]
"""Pictures that belong to a record, by the names that its JSON gives them."""


def to_json(record: Record) -> tuple[str, PngChunks]:
    """The record as JSON, the same for the same record, and its pictures."""
    pictures = {f"control-{i}": control.png for i, control in enumerate(record.controls)}
    pictures |= {
        name: png for name, png in (("init-image", record.init_image), ("mask", record.mask)) if png is not None
    }
    plain = {"format": FORMAT, **asdict(record)}
    for i, control in enumerate(plain["controls"]):
        control["png"] = f"control-{i}"
    plain["init_image"] = None if record.init_image is None else "init-image"
    plain["mask"] = None if record.mask is None else "mask"
    if not record.pooled:
        del plain["pooled"]  # older versions read the record too
    plain["pictures"] = {name: hashlib.sha256(png).hexdigest() for name, png in pictures.items()}
    if not record.settings.batch_size:
        del plain["settings"]["batch_size"]
    text = json.dumps(plain, ensure_ascii=False, sort_keys=True, allow_nan=False, indent=1, default=_of_numpy)
    return text, pictures


def from_json(text: str, pictures: Mapping[str, bytes]) -> Record:
    """What `to_json` made a text and pictures of.

    Raises:
        ValueError: If it is no record, a damaged one, or one of a newer format; says what is wrong.
    """
    try:
        plain = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON, got something else: {error}") from error
    if not isinstance(plain, dict) or type(plain.get("format")) is not int:
        raise ValueError("expected an object with its format's number")
    if plain["format"] > FORMAT:
        raise ValueError(
            f"it has the format {plain['format']}, and this version reads up to {FORMAT}; update the project"
        )
    fields = _Fields(plain, "the record")
    fields.take("format", int)
    hashes = fields.take("pictures", dict)

    def picture(name: str) -> bytes:
        if name not in pictures:
            raise ValueError(f"its picture {name} is missing: another program has left it out")
        if hashlib.sha256(pictures[name]).hexdigest() != hashes.get(name):
            raise ValueError(f"its picture {name} was changed or damaged after it was saved")
        return pictures[name]

    record = {
        "prompt": fields.take("prompt", str),
        "settings": _settings(fields.take("settings", dict)),
        "seed": fields.take("seed", int),
        "index": fields.take("index", int),
        "controls": tuple(_control(control, picture) for control in fields.take("controls", list)),
        "resolution": fields.take("resolution", int, None),
        "size": _optional(_size, fields.take("size", list, None)),
        "init_image": _optional(picture, fields.take("init_image", str, None)),
        "mask": _optional(picture, fields.take("mask", str, None)),
        "weights": tuple(_file(file) for file in fields.take("weights", list)),
        "control_weights": tuple(_file(file) for file in fields.take("control_weights", list)),
        "config": _optional(_file, fields.take("config", dict, None)),
        "runtime": _optional(_runtime, fields.take("runtime", dict, None)),
        "pooled": _places(fields.take("pooled", list)) if "pooled" in plain else (),
    }
    fields.nothing_left()
    return Record(**record)


class _Fields:
    """Takes values out of an object from outside, each with its type."""

    def __init__(self, plain: Any, what: str):
        if not isinstance(plain, dict):
            raise ValueError(f"expected {what} to be an object, got {_shown(plain)}")
        self._left, self._what = dict(plain), what

    def take(self, name: str, *kinds: type | None) -> Any:
        if name not in self._left:
            raise ValueError(f"{self._what} lacks {name!r}")
        value = self._left.pop(name)
        if type(value) not in {type(None) if kind is None else kind for kind in kinds}:  # True is no number here
            wanted = " or ".join("nothing" if kind is None else kind.__name__ for kind in kinds)
            raise ValueError(f"{name} of {self._what} must be {wanted}, got {_shown(value)}")
        if isinstance(value, str | list | dict):
            most = MOST_TEXT if isinstance(value, str) else _MOST_ENTRIES
            if len(value) > most:
                raise ValueError(f"{name} of {self._what} is too long: {len(value)}, at most {most}")
        return value

    def nothing_left(self) -> None:
        if self._left:
            raise ValueError(
                f"{self._what} has {', '.join(sorted(map(repr, self._left)))}, unknown to this version; update the "
                "project"
            )


def _settings(plain: dict[str, Any]) -> Settings:
    """Settings of which those that came later have their defaults."""
    if unknown := set(plain) - set(Settings.__dataclass_fields__):
        raise ValueError(f"it has settings unknown to this version, {', '.join(sorted(unknown))}; update the project")
    return Settings(**{name: _tuples(value) for name, value in plain.items()})


def _control(plain: Any, picture: Callable[[str], bytes]) -> ControlMap:
    fields = _Fields(plain, "a control")
    control = ControlMap(
        fields.take("kind", str),
        picture(fields.take("png", str)),
        fields.take("is_map", bool),
        _scalars(fields.take("options", dict), "options"),
        _scalars(fields.take("share", dict), "share"),
    )
    fields.nothing_left()
    return control


def _file(plain: Any) -> WeightsFile:
    fields = _Fields(plain, "a file")
    file = WeightsFile(fields.take("name", str), fields.take("bytes", int), fields.take("sha256", str))
    fields.nothing_left()
    if not re.fullmatch("[0-9a-f]{64}", file.sha256):
        raise ValueError(f"expected a file's SHA-256 as 64 hexadecimal digits, got {_shown(file.sha256)}")
    if not file.name or re.search(r"[/\\\0]", file.name) or file.name in (".", ".."):
        raise ValueError(f"expected a file's name without folders, got {_shown(file.name)}")
    return file


def _size(plain: list[Any]) -> tuple[int, int]:
    if len(plain) != 2 or not all(type(side) is int and 0 < side <= _LONGEST_SIDE for side in plain):
        raise ValueError(f"expected a size as height and width, got {_shown(plain)}")
    return plain[0], plain[1]


def _places(plain: list[Any]) -> tuple[int, ...]:
    if not all(type(place) is int and place >= 0 for place in plain):
        raise ValueError(f"expected places of ControlNets, got {_shown(plain)}")
    return tuple(plain)


def _runtime(plain: Any) -> Runtime:
    fields = _Fields(plain, "the runtime")
    runtime = Runtime(
        fields.take("device", str),
        fields.take("precision", str),
        fields.take("threads", int),
        _scalars(fields.take("flags", dict), "flags"),
        _scalars(fields.take("versions", dict), "versions"),
    )
    fields.nothing_left()
    return runtime


def _scalars(plain: dict[str, Any], what: str) -> dict[str, Any]:
    """A mapping to texts, numbers, True, False and nothing, as it is."""
    for name, value in plain.items():
        known = isinstance(value, str | int | float | bool | None) and len(str(value)) <= MOST_TEXT
        if not known or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{name!r} of {what} must be a text, a number, true, false or null, got {_shown(value)}")
    return plain


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _optional(read: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else read(value)


def _of_numpy(value: Any) -> Any:
    """Python's own number for numpy's, of which there may be some in options and sizes."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a record holds texts, numbers, True, False and None, got {type(value).__name__}")


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _shown(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
