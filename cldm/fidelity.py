"""How faithfully an image follows its hint: the shape and colours of one plain shape, or the edges of any picture.

All images are uint8 RGB (h, w, 3), colours (r, g, b) from 0 to 255, masks boolean (h, w).
"""

from collections.abc import Sequence

import cv2
import numpy as np

_BORDER = 4  # pixels round an image that belong to the background
_SEEN_APART = 24  # out of 442, between the colours of a shape and its background
_PLAIN_SHARE = 0.97  # of the pixels; edges are mixtures of both colours
_CANNY = (100, 200)  # thresholds, as the Canny app's
_TOLERANCE = 128  # edges may be off by this part of the short side

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


def plain_shape(image: np.ndarray) -> tuple[Colour, Colour] | None:
    """The colours of the shape and of the background if an image is one plain shape on a plain background.

    The background's is the median of a border of 4 pixels, the shape's the median of what is more than half as far from
    that as what lies farthest; nearly all pixels must be near one of both, and both must be seen apart.
    """
    pixels = image.astype(np.float32)
    inside = np.zeros(image.shape[:2], bool)
    inside[_BORDER:-_BORDER, _BORDER:-_BORDER] = True
    background = np.median(pixels[~inside], axis=0)
    distance = np.linalg.norm(pixels - background, axis=2)
    far = distance > 0.5 * distance.max()
    if distance.max() < _SEEN_APART or not far.any():
        return None
    colour = np.median(pixels[far], axis=0)
    off = np.minimum(distance, np.linalg.norm(pixels - colour, axis=2))
    if (off < 0.25 * np.linalg.norm(colour - background)).mean() < _PLAIN_SHARE:
        return None
    return tuple(map(int, colour)), tuple(map(int, background))


def shape_fidelity(image: np.ndarray, target: np.ndarray) -> float:
    """Intersection over union of an image's shape with its target's, in [0, 1].

    Raises:
        ValueError: If the target is no plain shape, see `plain_shape`.
    """
    colours = plain_shape(target)
    if colours is None:
        raise ValueError("expected a target of one plain shape on a plain background; compare edges instead")
    return iou(drawn_shape(image, *colours), drawn_shape(target, *colours))


def edge_fidelity(image: np.ndarray, reference: np.ndarray) -> float:
    """F1 of an image's edges against another's, in [0, 1]: the harmonic mean of precision and recall.

    Edges are Canny's. One is met by another of the other image that is at most a 128th of the short side away, 4 pixels
    at 512; where neither image has edges it is 1.

    Args:
        image: As generated.
        reference: The target, or a hint that shows edges itself; of the same size.

    Raises:
        ValueError: If the sizes differ.
    """
    if image.shape[:2] != reference.shape[:2]:
        raise ValueError(f"expected images of one size, got {image.shape[:2]} and {reference.shape[:2]}")
    found, wanted = (cv2.Canny(np.ascontiguousarray(picture), *_CANNY) > 0 for picture in (image, reference))
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    reach = max(1, min(image.shape[:2]) // _TOLERANCE)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    near_found, near_wanted = (cv2.dilate(edges.astype(np.uint8), disc) > 0 for edges in (found, wanted))
    precision, recall = near_wanted[found].mean(), near_found[wanted].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
