"""Image files to arrays and back."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_NO_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises on damaged files


def read_image(path: str | Path) -> np.ndarray:
    """Pixels of an image file, upright: uint8, (h, w, 3) RGB or, where it is transparent, (h, w, 4) RGBA.

    Sixteen bits a channel are scaled to eight.

    Raises:
        ValueError: If it is damaged or no image.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):  # Pillow would clip, not scale
                return np.asarray(Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB"))
            return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except _NO_IMAGE as error:
        raise ValueError(
            f"cannot read {Path(path).name} as an image: it is damaged or of another kind; expected is a PNG, JPEG or "
            "WebP"
        ) from error


def write_png(pixels: np.ndarray, path: Path) -> None:
    """Write a uint8 image, (h, w) or (h, w, 3), whole or not at all; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    Image.fromarray(pixels).save(part, format="PNG")
    os.replace(part, path)
