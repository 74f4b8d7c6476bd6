"""Canny edges: thin white lines where the brightness changes sharply.

J. Canny, "A Computational Approach to Edge Detection", IEEE PAMI 8(6), 1986.
"""

from pathlib import Path

import cv2
import numpy as np
import torch

from annotator.util import check_image

_STEEPEST = 2 * 4 * 255
"""L1 norm of the 3x3 Sobel derivatives where black meets white; OpenCV's whole numbers end soon after 2**31."""


class CannyDetector:
    """Edges of an image between two thresholds of its gradient.

    Args:
        checkpoint: None; here because every detector has it. Canny has no weights.
        device: Has no effect; Canny runs on the CPU.

    Raises:
        ValueError: If a checkpoint is given.
    """

    def __init__(self, checkpoint: str | Path | None = None, device: str | torch.device = "auto") -> None:
        if checkpoint is not None:
            raise ValueError(f"Canny has no weights to load, got checkpoint={str(checkpoint)!r}; leave it out")

    def __call__(self, image: np.ndarray, low_threshold: float = 100, high_threshold: float = 200) -> np.ndarray:
        """Mark the edges.

        Args:
            image: uint8 RGB, (h, w, 3).
            low_threshold: Gradient (L1 norm of the 3x3 Sobel derivatives) above which an edge is followed.
            high_threshold: Gradient above which an edge starts. The lower of the two counts as the low one.

        Returns:
            uint8, (h, w): 255 on edges, 0 elsewhere.

        Raises:
            ValueError: If the image is no such array, or a threshold is negative or NaN.
        """
        image = check_image(image)
        if not (low_threshold >= 0 and high_threshold >= 0):
            raise ValueError(f"expected thresholds of at least 0, got {low_threshold} and {high_threshold}")
        return cv2.Canny(image, min(low_threshold, _STEEPEST), min(high_threshold, _STEEPEST))
