"""Image files to arrays and back; the images of a folder, and their captions."""

import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms

SUFFIXES = tuple(
    f".{kind}"
    for kind in (
        *("png", "jpg", "jpeg", "jpe", "jfif", "webp", "avif", "apng", "bmp", "dib", "tif", "tiff", "gif"),
        *("jp2", "j2k", "jpf", "jpx", "ppm", "pgm", "pbm", "pnm", "tga", "qoi"),
    )
)
"""Of pictures that Pillow reads; what else it reads are documents, icons, films and measurements."""

UNFINISHED = ".unfinished"
"""What files end in until they are whole."""

MOST_PIXELS = 2**28
"""That are read; 0.8 GB as RGB. Phones make photos of 200 million."""

Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # instead of a third of it; Pillow refuses twice as many
_DEEP = {"I": "32-bit integers", "F": "floating point"}  # modes of Pillow that it would clip to 0..255, not scale
_NO_IMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error)  # what Pillow raises on damaged files
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets an image upright, by its orientation in EXIF."""


def read_image(path: str | Path, most_pixels: int | None = None) -> np.ndarray:
    """Pixels of an image file, upright and in sRGB: uint8, (h, w, 3) or, where it is transparent, RGBA (h, w, 4).

    Sixteen bits a channel are scaled to eight.

    Args:
        path: Of the file.
        most_pixels: A larger image is not decoded; None is `MOST_PIXELS`.

    Raises:
        FileNotFoundError: If there is none.
        PermissionError: If it may not be read.
        ValueError: If it is damaged, no image or too large, or has more bits, of which nobody knows what is black and
            white.
    """
    name, most_pixels = Path(path).name, MOST_PIXELS if most_pixels is None else most_pixels
    size = f"more than {2 * MOST_PIXELS}"  # if Pillow refuses to open it
    try:
        with Image.open(path) as opened:
            size = f"{opened.width} x {opened.height}"
            if opened.width * opened.height > most_pixels:
                raise Image.DecompressionBombError
            image = _upright(opened)
            if image.mode.startswith("I;16"):  # Pillow would clip, not scale
                return np.asarray(Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB"))
            if image.mode not in _DEEP:
                return np.asarray(_srgb(image, "RGBA" if image.has_transparency_data else "RGB"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"cannot read {name} as an image: there is no file {path}") from error
    except PermissionError as error:
        raise PermissionError(f"cannot read {name} as an image: permission to read {path} is denied") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} has {size} pixels, and at most {most_pixels / 2**20:g} megapixels are read; scale it down"
        ) from error
    except _NO_IMAGE as error:
        raise ValueError(
            f"cannot read {name} as an image: it is damaged or of another kind; expected is a PNG, JPEG or WebP"
        ) from error
    raise ValueError(
        f"expected 8 or 16 bits a channel, but {name} has {_DEEP[image.mode]}; scale its values to 0..255 or 0..65535, "
        "and save it as a PNG of 8 or 16 bits"
    )


def _upright(image: Image.Image) -> Image.Image:
    """An image as its camera was held. No EXIF is written, as `exif_transpose` does, which fails where it is odd."""
    image.load()
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


def _srgb(image: Image.Image, mode: str) -> Image.Image:
    """RGB or RGBA of an image, in sRGB where it comes with a profile of other colours that can be made use of."""
    profile = image.info.get("icc_profile")
    own_colours = image.mode in ("CMYK", "L") and mode == "RGB"  # which no profile of RGB is for
    pixels = image if own_colours else image.convert(mode)
    if profile:
        with suppress(ImageCms.PyCMSError, OSError, TypeError, ValueError):
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            if "srgb" not in ImageCms.getProfileDescription(source).lower():
                return ImageCms.profileToProfile(pixels, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    return pixels.convert(mode)


def images_in(folder: Path, but_not: Path | None = None) -> list[Path]:
    """All images in a folder and the folders in it, as paths from there, sorted.

    Args:
        folder: Looked through.
        but_not: A folder in it that is left out.

    Raises:
        FileNotFoundError: If the folder is not there or has no images.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}; give one with images")
    names = [name for name in _files_in(folder, but_not) if name.suffix.lower() in SUFFIXES]
    if not names:
        raise FileNotFoundError(f"no images in {folder}; expected are files that end in {', '.join(SUFFIXES)}")
    return names


def others_in(folder: Path, but_not: Path | None = None) -> list[Path]:
    """What `images_in` leaves out of a folder, but for captions and hidden files."""
    known = (*SUFFIXES, ".txt")
    names = _files_in(folder, but_not)
    return [name for name in names if name.suffix.lower() not in known and not name.name.startswith(".")]


def _files_in(folder: Path, but_not: Path | None) -> list[Path]:
    inside = but_not.resolve() if but_not is not None and folder.resolve() in but_not.resolve().parents else None
    return sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and inside not in path.resolve().parents
    )


def check_apart(images: Path, out: Path, results: str) -> None:
    """Check that what is made of a folder of images will not be taken for more of them.

    Args:
        images: The folder.
        out: Folder of what is made of them.
        results: What these are called.

    Raises:
        ValueError: If it is one folder.
    """
    if images.resolve() == out.resolve():
        raise ValueError(f"images and {results} would be in the same folder, {out}; give another for the {results}")


def caption_of(image: Path) -> str:
    """What the text file beside an image says, `cat.txt` beside `cat.jpg`, in one line.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty or no text.
    """
    file = image.with_suffix(".txt")
    if not file.is_file():
        raise FileNotFoundError(f"no caption, expected in {file.name}")
    try:
        words = file.read_text(encoding="utf-8-sig").split()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name} is no UTF-8 text") from error
    if not words:
        raise ValueError(f"{file.name} is empty")
    return " ".join(words)


def write_png(pixels: np.ndarray, path: Path) -> None:
    """Write a uint8 image, (h, w) or (h, w, 3), whole or not at all; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as unfinished:
        Image.fromarray(pixels).save(unfinished, format="PNG")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name beside `path` that no other process has, to write to; it becomes `path`, or nothing is left of it."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
