"""Where heat maps peak: candidates for joints."""

import numpy as np
from numpy.typing import NDArray

from annotator.openpose.resampling import Enlargement

SIGMA = 3.0  # image pixels
THRESHOLD = 0.1  # of the blurred heat


def find_peaks(heatmaps: NDArray[np.floating], enlargement: Enlargement) -> list[NDArray[np.float64]]:
    """Local maxima of the blurred maps, scored by the unblurred ones.

    A peak is at least as high as its four neighbours and above 0.1. One map at a time is enlarged, so
    memory stays at a few times eight bytes per pixel of the image.

    Args:
        heatmaps: One per joint, without the background, (joints, H, W) on the network's cells.
        enlargement: From these cells to the pixels of the image.

    Returns:
        Per joint an array (peaks, 4), in reading order: x, y, score and a number that counts through all joints.

    Raises:
        ValueError: If a map has more peaks than cells, which blobs wider than a cell cannot have.
    """
    blurring = enlargement.blurred(SIGMA)
    peaks = []
    count = 0
    for joint, heat in enumerate(heatmaps):
        y, x = np.divmod(np.flatnonzero(_maxima(blurring.enlarge(heat))), len(enlargement.columns))
        if len(x) > heat.size:
            raise ValueError(
                f"heat map {joint} has {len(x)} peaks on {heat.size} cells, which is noise and no joints; "
                "check that the checkpoint is the published one"
            )
        score = enlargement.read(heat[None], x, y)[0]
        peaks.append(np.column_stack([x, y, score, np.arange(count, count + len(x))]))
        count += len(x)
    return peaks


def _maxima(heat: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a map exceeds the threshold and none of its four neighbours exceeds it."""
    peak = heat > THRESHOLD
    peak[1:] &= heat[1:] >= heat[:-1]
    peak[:-1] &= heat[:-1] >= heat[1:]
    peak[:, 1:] &= heat[:, 1:] >= heat[:, :-1]
    peak[:, :-1] &= heat[:, :-1] >= heat[:, 1:]
    return peak
