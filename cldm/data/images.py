"""Image files of a dataset as arrays: targets in RGB, hints of any number of channels.

A file is a path, or a `Member` of a shard, whose bytes are in memory.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # modes of Pillow
_GREY = ("1", "L", "LA")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # greyscale of 16 bits; older Pillows read it as I
_UNREADABLE = (  # of Pillow and numpy
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
_LARGEST_16_BIT = 65535
_ORIENTED = {"exif", "Raw profile type exif", "XML:com.adobe.xmp"}  # what of a PNG's header may say how it lies
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets an image upright, by its orientation in EXIF; from 5 on, its rows are columns of the picture."""


@dataclass(frozen=True)
class Member:
    """A file that was read from a shard.

    Attributes:
        name: What errors call it.
        content: Its bytes.
    """

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


File = Path | Member


def read_image(file: File) -> np.ndarray:
    """An image file as uint8 RGB (h, w, 3), turned as its camera says; alpha is blended onto white.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no image, damaged, or has more than 8 bits a channel.
    """
    with _reading(file) as opened, Image.open(opened) as image:
        _check_mode(image)
        return np.array(_upright(image).convert("RGB"))


def check_image(file: File) -> tuple[int, int]:
    """The size, (width, height), of an image file that is found to be whole.

    PNG files have checksums, so those are compared without decoding, a hundred times faster; others are read.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no image, damaged, or has more than 8 bits a channel.
    """
    with _reading(file) as opened, Image.open(opened) as image:
        if image.format == "PNG" and "exif" not in image.info:
            _check_mode(image)
            image.verify()
            return image.size
    return read_image(file).shape[1::-1]


def image_size(file: File) -> tuple[int, int]:
    """The size, (width, height), that `read_image` would give, from the file's header alone.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no image, or its header is damaged.
    """
    with _reading(file) as opened, Image.open(opened) as image:
        if image.format == "TIFF" or (image.format == "PNG" and not _ORIENTED & image.info.keys()):
            return image.size  # Pillow has turned the first already, and would decode the other to look for more
        lying = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return image.size[::-1] if lying else image.size


def read_hint(file: File) -> np.ndarray:
    """A control map with as many channels as it has.

    Greyscale images have one channel and coloured ones three; depth of 16 bits is divided by 65535. A `.npy` file has
    an array (h, w) or (h, w, c): of uint8 or uint16, divided by its largest value, of truth values, or of floats that
    are in [0, 1] already.

    Returns:
        (h, w, c): uint8 where the file has 8 bits a channel, else float32 in [0, 1].

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is neither, or damaged.
    """
    if is_array(file):
        with _reading(file, "an array") as opened:
            return _checked_array(np.load(opened, allow_pickle=False))
    with _reading(file) as opened, Image.open(opened) as image:
        if image.mode in _DEEP:
            return _deep(np.array(_turned(image)))
        _check_mode(image, "8 bits a channel, or greyscale of 16")
        grey = image.mode in _GREY
        pixels = np.array(_upright(image).convert("L" if grey else "RGB"))
        return pixels[:, :, None] if grey else pixels


def check_hint(file: File) -> tuple[tuple[int, int], int]:
    """The size, (width, height), and the channels of a control map that is whole, as `check_image` finds out.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If `read_hint` could not use it.
    """
    if not is_array(file):
        with _reading(file) as opened, Image.open(opened) as image:
            if image.format == "PNG" and "exif" not in image.info and image.mode not in _DEEP:
                _check_mode(image)
                image.verify()
                return image.size, 1 if image.mode in _GREY else 3
    height, width, channels = read_hint(file).shape
    return (width, height), channels


def is_array(file: File) -> bool:
    """Whether a control map is an array in a file, not an image."""
    return str(file).lower().endswith(".npy")


def _turned(image: Image.Image) -> Image.Image:
    """Turned as the camera says. No EXIF is written, as `exif_transpose` does, which fails where it is odd."""
    image.load()
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the camera says, alpha blended onto white."""
    image = _turned(image)
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _deep(values: np.ndarray) -> np.ndarray:
    if values.min() < 0 or values.max() > _LARGEST_16_BIT:
        raise ValueError(f"expected 16 bits, got values from {values.min()} to {values.max()}; save it as .npy")
    return values[:, :, None].astype(np.float32) / _LARGEST_16_BIT


def _checked_array(values: np.ndarray) -> np.ndarray:
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or not values.size:
        raise ValueError(f"expected an array (h, w) or (h, w, channels), got the shape {values.shape}")
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.float32)
    if values.dtype == np.uint16:
        return values.astype(np.float32) / _LARGEST_16_BIT
    if values.dtype.kind != "f":
        raise ValueError(f"expected uint8, uint16, bool or floats in [0, 1], got {values.dtype}")
    if not (values.min() >= 0 and values.max() <= 1):  # false of NaN as well
        raise ValueError(
            f"expected floats in [0, 1], got {values.min()} to {values.max()}; scale them, all files alike"
        )
    return values.astype(np.float32)


@contextmanager
def _reading(file: File, wanted: str = "an image") -> Iterator[Path | BinaryIO]:
    """What Pillow and numpy open; turns whatever they raise into one error that names the file."""
    try:
        yield io.BytesIO(file.content) if isinstance(file, Member) else file
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no image at {file}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"cannot read {file} as {wanted}: it is of no known format") from error
    except _UNREADABLE as error:
        raise ValueError(f"cannot read {file} as {wanted}: {error}") from error


def _check_mode(image: Image.Image, wanted: str = "8 bits a channel") -> None:
    if image.mode not in _EIGHT_BIT:
        raise ValueError(f"expected {wanted}, got Pillow's mode {image.mode}; convert it, as best suits the data")
