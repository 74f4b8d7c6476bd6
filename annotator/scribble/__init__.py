"""Scribbles: dark strokes of a drawing, and strokes made of soft edges, as broad as a pen's."""

from pathlib import Path

import cv2
import numpy as np
import torch

from annotator.hed import nms
from annotator.util import check_image

_DARK_BELOW = 127
_RIDGE_THRESHOLD, _SIGMA = 127, 3.0
_STROKE_ABOVE = 4  # of a ridge of 255 once it is blurred: a stroke some ten pixels wide


class ScribbleDetector:
    """Dark strokes of a drawing on light paper.

    Args:
        checkpoint: None; here because every detector has it. Scribbles need no weights.
        device: Has no effect.

    Raises:
        ValueError: If a checkpoint is given.
    """

    def __init__(self, checkpoint: str | Path | None = None, device: str | torch.device = "auto") -> None:
        if checkpoint is not None:
            raise ValueError(f"scribbles need no weights, got checkpoint={str(checkpoint)!r}; leave it out")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Mark every pixel that is dark in any channel.

        Args:
            image: uint8 RGB, (h, w, 3).

        Returns:
            uint8, (h, w): 255 on strokes, 0 elsewhere.

        Raises:
            ValueError: If the image is no such array.
        """
        dark = check_image(image).min(axis=2) < _DARK_BELOW
        return np.where(dark, np.uint8(255), np.uint8(0))


def strokes(soft_edges: np.ndarray) -> np.ndarray:
    """Make scribbles of soft edges: thin them to ridges, then broaden these.

    Args:
        soft_edges: uint8, (h, w) or (h, w, c), as `annotator.hed.HEDdetector` makes them; of channels, the first is
            used.

    Returns:
        uint8, (h, w): 255 on strokes, 0 elsewhere.
    """
    edges = soft_edges if soft_edges.ndim == 2 else soft_edges[..., 0]
    ridges = nms(edges, _RIDGE_THRESHOLD, _SIGMA)
    broad = cv2.GaussianBlur(ridges, (0, 0), _SIGMA)
    return np.where(broad > _STROKE_ABOVE, np.uint8(255), np.uint8(0))
