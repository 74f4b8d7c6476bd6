"""Image files to arrays and back; the images of a folder, and their captions."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_DEEP = {"I": "32-bit integers", "F": "floating point"}  # modes of Pillow that it would clip to 0..255, not scale
_NO_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises on damaged files


def read_image(path: str | Path) -> np.ndarray:
    """Pixels of an image file, upright: uint8, (h, w, 3) RGB or, where it is transparent, (h, w, 4) RGBA.

    Sixteen bits a channel are scaled to eight.

    Raises:
        ValueError: If it is damaged or no image, or has more bits, of which nobody knows what is black and white.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):  # Pillow would clip, not scale
                return np.asarray(Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB"))
            if image.mode not in _DEEP:
                return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except _NO_IMAGE as error:
        raise ValueError(
            f"cannot read {Path(path).name} as an image: it is damaged or of another kind; expected is a PNG, JPEG or "
            "WebP"
        ) from error
    raise ValueError(
        f"expected 8 or 16 bits a channel, but {Path(path).name} has {_DEEP[image.mode]}; scale its values to 0..255 "
        "or 0..65535, and save it as a PNG of 8 or 16 bits"
    )


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
    inside = but_not.resolve() if but_not is not None and folder.resolve() in but_not.resolve().parents else None
    names = sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and inside not in path.resolve().parents
    )
    if not names:
        raise FileNotFoundError(f"no images in {folder}; expected are files that end in {', '.join(SUFFIXES)}")
    return names


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
    part = path.with_name(f"{path.name}.part")
    Image.fromarray(pixels).save(part, format="PNG")
    os.replace(part, path)
