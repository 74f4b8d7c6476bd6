"""What image-to-image and inpainting start from: files to arrays of the control map's size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from annotator.images import read_image
from annotator.util import HWC3, resize
from cldm.records import png_of

DENOISE = 0.75
"""What an image to start from is denoised by where nobody says, and no mask says how much of it is to stay."""


@dataclass(frozen=True, eq=False)
class Start:
    """An image to start from, and where to repaint it.

    Attributes:
        image: uint8 RGB, (h, w, 3); None to start from noise.
        mask: uint8, (h, w), above 127 where to repaint; None for everywhere.
    """

    image: np.ndarray | None = None
    mask: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray | None]:
        """As `cldm.pipeline.generate` takes them."""
        return {"image": self.image, "mask": self.mask}

    def pngs(self) -> dict[str, bytes | None]:
        """As `cldm.records.Record` takes them."""
        pictures = {"init_image": self.image, "mask": self.mask}
        return {name: None if pixels is None else png_of(pixels) for name, pixels in pictures.items()}


def read_start(values: Mapping[str, Any], size: tuple[int, int]) -> Start:
    """Read what a job names as "init_image" and "mask", and scale it to the control map's size.

    Args:
        values: Files or pixels, uint8, by these names; either may be left out or None. What is transparent is white in
            the image, and dark in the mask.
        size: Height and width.

    Raises:
        ValueError: If a file is no picture, or there is a mask without an image.
    """
    image, mask = (values.get(name) for name in ("init_image", "mask"))
    if image is None and mask is not None:
        raise ValueError("expected an init_image together with the mask, which says where to repaint it")
    return Start(
        None if image is None else _scaled(_pixels(image), size),
        None if mask is None else resize(_light(mask), size, cv2.INTER_NEAREST),
    )


def _pixels(given: Any) -> np.ndarray:
    """RGB of a file's picture, or of pixels."""
    return HWC3(_read(given))


def _light(given: Any) -> np.ndarray:
    """How light a file's picture or pixels are on black, uint8 (h, w)."""
    pixels = _read(given)
    light = HWC3(pixels[..., :3] if pixels.ndim == 3 else pixels).max(axis=2)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        light = np.rint(light * (pixels[..., 3] / 255)).astype(np.uint8)
    return light


def _read(given: Any) -> np.ndarray:
    return given if isinstance(given, np.ndarray) else read_image(given)


def _scaled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """In the way in which the control map's picture is scaled."""
    grows = size[0] > image.shape[0]
    return image if image.shape[:2] == size else resize(image, size, cv2.INTER_LANCZOS4 if grows else cv2.INTER_AREA)
