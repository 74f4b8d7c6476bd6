"""How faithfully an image of one plain shape follows its prompt's colours and its hint's shape.

All images are uint8 RGB (h, w, 3), colours (r, g, b) from 0 to 255, masks boolean (h, w).
"""

from collections.abc import Sequence

import numpy as np

_BORDER = 4  # pixels round an image that belong to the background

Colour = Sequence[int]


def drawn_shape(image: np.ndarray, colour: Colour, background: Colour) -> np.ndarray:
    """The mask of the pixels that are nearer the shape's colour than the background's."""
    pixels = image.astype(np.float32)
    to_shape, to_background = (np.linalg.norm(pixels - np.float32(c), axis=2) for c in (colour, background))
    return to_shape < to_background


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks of one size; 1 for two empty ones."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0


def drawn_colours(image: np.ndarray, colour: Colour, background: Colour) -> tuple[np.ndarray, np.ndarray]:
    """The shape's and the background's colour, (3,) each, as they came out.

    The background's is the median of a border of 4 pixels, the shape's the median of what is farther from that than
    half the distance of the two colours of the prompt; where there is nothing so far, no shape was drawn, and the
    background's colour stands for it.
    """
    pixels = image.astype(np.float32)
    inside = np.zeros(image.shape[:2], bool)
    inside[_BORDER:-_BORDER, _BORDER:-_BORDER] = True
    found_background = np.median(pixels[~inside], axis=0)
    distance = np.linalg.norm(pixels - found_background, axis=2)
    far = distance > 0.5 * np.linalg.norm(np.subtract(colour, background))
    found_shape = np.median(pixels[far], axis=0) if far.any() else found_background
    return found_shape, found_background


def colour_errors(image: np.ndarray, colour: Colour, background: Colour) -> tuple[float, float]:
    """Mean absolute errors of the shape's and of the background's colour, out of 255."""
    found = drawn_colours(image, colour, background)
    return tuple(float(np.abs(f - np.float32(c)).mean()) for f, c in zip(found, (colour, background), strict=True))
