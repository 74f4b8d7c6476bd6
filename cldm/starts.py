"""What image-to-image and inpainting start from: files to arrays of the control map's size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from annotator.images import read_image
from annotator.util import HWC3, resize, size_at
from cldm.records import png_of

DENOISE = 0.75
"""What an image to start from is denoised by where nobody says, and no mask says how much of it is to stay."""


@dataclass(frozen=True, eq=False)
class Start:
    """An image to start from, and where to repaint it.

    Attributes:
        image: uint8 RGB, (h, w, 3); None to start from noise.
        mask: uint8, (h, w), above 127 where to repaint; None for everywhere.
        notices: What the user should know; sentences.
    """

    image: np.ndarray | None = None
    mask: np.ndarray | None = None
    notices: tuple[str, ...] = ()

    def arrays(self) -> dict[str, np.ndarray | None]:
        """As `cldm.pipeline.generate` takes them."""
        return {"image": self.image, "mask": self.mask}

    def pngs(self) -> dict[str, bytes | None]:
        """As `cldm.records.Record` takes them."""
        pictures = {"init_image": self.image, "mask": self.mask}
        return {name: None if pixels is None else png_of(pixels) for name, pixels in pictures.items()}


def read_start(values: Mapping[str, Any], size: tuple[int, int]) -> Start:
    """Read what a job names as "init_image" and "mask", of the control map's shape and scaled to its size.

    Args:
        values: Files or pixels, uint8, by these names; either may be left out or None. What is transparent is white in
            the image, and dark in the mask.
        size: Height and width. Of an image of another shape, and of its mask, the middle is taken.

    Raises:
        ValueError: If a file is no picture, or there is a mask without an image.
    """
    image, mask = (values.get(name) for name in ("init_image", "mask"))
    if image is None and mask is not None:
        raise ValueError("expected an init_image together with the mask, which says where to repaint it")
    if image is None:
        return Start()
    pixels = _pixels(image)
    shares = _shares_kept(pixels.shape[:2], size)
    cropped = _cropped(pixels, shares)
    return Start(
        _scaled(cropped, size),
        None if mask is None else resize(_cropped(_light(mask), shares), size, cv2.INTER_NEAREST),
        _notices(pixels, cropped),
    )


def _shares_kept(given: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    """Of the height and of the width. All, where the map's picture was of the same shape and scaled to that size."""
    if size_at(given, min(size)) == size:
        return 1.0, 1.0
    taller = size[0] * given[1] / (size[1] * given[0])
    return min(1.0, taller), min(1.0, 1 / taller)


def _cropped(image: np.ndarray, shares: tuple[float, float]) -> np.ndarray:
    """The middle of an image."""
    sides = [max(1, round(side * share)) for side, share in zip(image.shape[:2], shares, strict=True)]
    top, left = ((whole - kept) // 2 for whole, kept in zip(image.shape[:2], sides, strict=True))
    return image[top : top + sides[0], left : left + sides[1]]


def _notices(image: np.ndarray, cropped: np.ndarray) -> tuple[str, ...]:
    if cropped.shape == image.shape:
        return ()
    (height, width), (kept_height, kept_width) = image.shape[:2], cropped.shape[:2]
    return (
        f"Of the image to start from, {width} x {height}, the middle {kept_width} x {kept_height} was taken, which is "
        "of the control map's shape.",
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
