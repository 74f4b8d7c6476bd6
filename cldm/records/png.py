"""Records in PNG files: written whole, read with limits.

JSON stands in the text chunk "controlnet", the pictures of a record in chunks of their own, "controlnet-control-0",
"controlnet-init-image", ..., as PNG in base64. Text chunks are what most programs keep when they save a PNG again, and
what they show; private chunks are dropped by almost all. One more, "parameters", is for people, in the customary form.
"""

import base64
import binascii
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cldm.records.plain import from_json, to_json
from cldm.records.record import Record
from cldm.weights.saving import check_free, written_whole

CHUNK = "controlnet"
_SHOWN = f"{CHUNK}-shown-map"
_SAMPLERS = {"ddim": "DDIM", "dpm++": "DPM++ 2M", "unipc": "UniPC"}  # as other programs call them
_MOST_BYTES = 256 * 2**20  # of a file
_MOST_PICTURES = 60 * 2**20  # characters; Pillow refuses files with more than 64 MiB of text
_MOST_PIXELS = 4096 * 4096  # of each picture
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)  # Pillow's, on what is no PNG


class NoRecordError(ValueError):
    """A good image, but nothing in it about how it was made."""


def save_png(path: str | Path, image: np.ndarray, record: Record) -> Path:
    """Write an image with its record; the same of both give the same bytes.

    Args:
        path: A new file. It has another name until it is complete.
        image: uint8 RGB, (h, w, 3).
        record: What it was made of.

    Returns:
        `path`.

    Raises:
        FileExistsError: If there is something of this name.
        FileNotFoundError: If the folder does not exist.
        ValueError: If the image is no such array, or the record's pictures are too large to be kept with it.
    """
    path = Path(path)
    _check_pixels(image, (3,))
    check_free(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to save {path.name} in; make it first")
    text, pictures = to_json(record)
    info = PngInfo()
    info.add_itxt(CHUNK, text)
    info.add_text("parameters", parameters(image, record))
    encoded = {name: base64.b64encode(png).decode("ascii") for name, png in pictures.items()}
    if (size := sum(map(len, encoded.values()))) > _MOST_PICTURES:
        raise ValueError(
            f"the record's pictures take {size} characters, and programs read at most {_MOST_PICTURES} in a PNG; save "
            "the image without them"
        )
    for name, picture in encoded.items():
        info.add_text(f"{CHUNK}-{name}", picture)
    with written_whole(path) as unfinished:
        Image.fromarray(image).save(unfinished, format="PNG", pnginfo=info)
    return path


def read_record(source: str | Path | bytes) -> Record:
    """The record of an image that `save_png` wrote.

    Args:
        source: A file, or its content.

    Raises:
        FileNotFoundError: If there is no such file.
        NoRecordError: If it is a PNG or another image without a record.
        ValueError: If it is no image, too large, or its record is damaged or of a newer format.
    """
    name = "the image" if isinstance(source, bytes) else str(source)
    chunks = _texts(_content(source, name), name)
    if CHUNK not in chunks:
        raise NoRecordError(
            f"{name} has nothing in it about how it was made: it is not from this project, or a program or web site "
            "that saved it again has left that out"
        )
    try:
        prefix = f"{CHUNK}-"
        pictures = {
            key.removeprefix(prefix): base64.b64decode(value, validate=True)
            for key, value in chunks.items()
            if key.startswith(prefix)
        }
        for picture in pictures.values():
            _open_png(picture)
        return from_json(chunks[CHUNK], pictures)
    except (ValueError, binascii.Error) as error:
        raise ValueError(f"cannot read what {name} says about how it was made: {error}") from error


def save_shown(path: str | Path, shown: np.ndarray, control_map: np.ndarray) -> Path:
    """Write a control map as people see it; where that is not the map itself, the file has the map too.

    Args:
        path: Of the file.
        shown: uint8 RGB, (h, w, 3), such as the map inverted.
        control_map: As people bring one, likewise.

    Returns:
        `path`.
    """
    info = PngInfo()
    if not np.array_equal(shown, control_map):
        encoded = base64.b64encode(png_of(control_map)).decode("ascii")
        info.add_text(_SHOWN, f"{_hash(shown)} {encoded}")
    Image.fromarray(shown).save(path, format="PNG", pnginfo=info)
    return Path(path)


def map_shown(path: str | Path, shown: np.ndarray) -> np.ndarray | None:
    """The control map that a file of `save_shown` has, uint8 RGB (h, w, 3).

    Args:
        path: Of any file with a picture.
        shown: Its pixels.

    Returns:
        None if there is no map in it, or the picture was changed afterwards.
    """
    try:
        made_of, _, encoded = _texts(_content(path, str(path)), str(path)).get(_SHOWN, "").partition(" ")
        return pixels_of(base64.b64decode(encoded, validate=True)) if made_of == _hash(shown) else None
    except ValueError:
        return None


def _hash(pixels: np.ndarray) -> str:
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def png_of(pixels: np.ndarray) -> bytes:
    """An image as a PNG, lossless; the same pixels give the same bytes.

    Args:
        pixels: uint8, (h, w), (h, w, 3) or (h, w, 4).

    Raises:
        ValueError: If it is no such array.
    """
    file = io.BytesIO()
    _check_pixels(pixels, (1, 3, 4))
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def pixels_of(png: bytes) -> np.ndarray:
    """What `png_of` made a PNG of.

    Raises:
        ValueError: If it is damaged, no PNG, or too large.
    """
    image = _open_png(png)
    try:
        return np.asarray(image)
    except _DAMAGED as error:
        raise ValueError(f"expected a PNG, got a damaged one: {error}") from error


def parameters(image: np.ndarray, record: Record) -> str:
    """The record in a form for people, as other programs write and show it."""
    settings = record.settings
    lines = [settings.full_prompt(record.prompt)]
    if settings.negative_prompt:
        lines.append(f"Negative prompt: {settings.negative_prompt}")
    facts: dict[str, Any] = {
        "Steps": settings.steps,
        "Sampler": _SAMPLERS.get(settings.sampler, settings.sampler),
        "CFG scale": settings.scale,
        "Seed": record.seed,
        "Size": f"{image.shape[1]}x{image.shape[0]}",
        "ControlNet": " + ".join(control.kind or "map" for control in record.controls) or "none",
        "Control strength": settings.strength,
    }
    if record.weights:
        facts |= {"Model": Path(record.weights[0].name).stem, "Model hash": record.weights[0].sha256[:10]}
    lines.append(", ".join(f"{name}: {value}" for name, value in facts.items()))
    return "\n".join(lines).replace("\0", "")


def _content(source: str | Path | bytes, name: str) -> bytes:
    if isinstance(source, bytes):
        size = len(source)
    else:
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}; give a PNG that was saved by an app or by tool_generate.py")
        size = path.stat().st_size
    if size > _MOST_BYTES:
        raise ValueError(f"{name} has {size} bytes, more than the {_MOST_BYTES} that are read for a record")
    return source if isinstance(source, bytes) else path.read_bytes()


def _texts(content: bytes, name: str) -> dict[str, str]:
    """The text chunks of a PNG; none of other images, and of those larger than any that is saved here."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format != "PNG" or image.width * image.height > _MOST_PIXELS:
                return {}
            image.load()  # other programs write texts behind the pixels
            return {key: str(value) for key, value in image.text.items()}
    except _DAMAGED as error:
        raise ValueError(f"cannot read {name} as an image: it is damaged, too large or something else") from error


def _open_png(png: bytes) -> Image.Image:
    """The image, not decoded yet."""
    try:
        image = Image.open(io.BytesIO(png), formats=["PNG"])
    except _DAMAGED as error:
        raise ValueError("expected a PNG, got something else") from error
    if image.width * image.height > _MOST_PIXELS:
        raise ValueError(f"a picture of {image.width} x {image.height} pixels is larger than any that is kept here")
    if image.mode not in ("L", "RGB", "RGBA"):
        raise ValueError(f"expected a PNG in grey, RGB or RGBA, got the mode {image.mode}")
    return image


def _check_pixels(pixels: np.ndarray, channels: tuple[int, ...]) -> None:
    if isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and 2 <= pixels.ndim <= 3:
        depth = pixels.shape[2] if pixels.ndim == 3 else 1
        if depth in channels and (depth > 1 or pixels.ndim == 2) and 0 < pixels.size // depth <= _MOST_PIXELS:
            return
    given = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
    raise ValueError(f"expected a uint8 array (h, w, 3) of at most {_MOST_PIXELS} pixels, got {given}")
