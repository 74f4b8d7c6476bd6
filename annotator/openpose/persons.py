"""From limbs to persons."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from annotator.openpose.limbs import find_limbs
from annotator.openpose.peaks import find_peaks
from annotator.openpose.pose_machines import STRIDE
from annotator.openpose.resampling import Enlargement, network_size
from annotator.openpose.skeleton import DRAWN_LIMBS, JOINTS, LIMBS

SCORE, PARTS = len(JOINTS), len(JOINTS) + 1  # columns of a person after those of the joints
MISSING = -1.0
FEWEST_PARTS = 4
LEAST_MEAN_SCORE = 0.4


def find_persons(
    fields: NDArray[np.floating], heatmaps: NDArray[np.floating], height: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Assemble persons from the outputs of the body network.

    Args:
        fields: Part affinity fields (38, H / 8, W / 8).
        heatmaps: Heat maps (19, H / 8, W / 8); the last is the background.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        The candidates, all peaks (n, 4): x and y in pixels, score, number; and the persons (m, 20): for each joint
        the number of its peak or -1, then the sum of the scores of peaks and limbs, then the number of parts.

    Raises:
        ValueError: If the shapes do not belong together, or the heat maps are noise.
    """
    scaled = network_size(height, width)
    cells = tuple(-(-side // STRIDE) for side in scaled)
    if fields.shape != (2 * len(LIMBS), *cells) or heatmaps.shape != (len(JOINTS) + 1, *cells):
        raise ValueError(
            f"an image of {height}x{width} pixels has fields {(2 * len(LIMBS), *cells)} and heat maps "
            f"{(len(JOINTS) + 1, *cells)}, got {fields.shape} and {heatmaps.shape}"
        )
    enlargement = Enlargement.between(cells, scaled, (height, width))
    peaks = find_peaks(heatmaps[:-1], enlargement)
    candidates = np.concatenate(peaks)
    limbs = [find_limbs(limb, peaks[limb.start], peaks[limb.end], fields, enlargement) for limb in LIMBS]
    return candidates, group(candidates[:, 2], limbs)


def group(peak_scores: NDArray[np.float64], limbs: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Join limbs that share peaks into persons and drop the doubtful ones.

    Args:
        peak_scores: Score of every peak, by number.
        limbs: For each of `LIMBS` the accepted ones, (n, 3) as `find_limbs` gives them.

    Returns:
        Persons (m, 20) as `find_persons` gives them.
    """
    persons = np.empty((0, PARTS + 1))
    for limb, found in zip(LIMBS, limbs, strict=True):
        for start, end, score in found:
            sharing = np.flatnonzero((persons[:, limb.start] == start) | (persons[:, limb.end] == end))
            if len(sharing) == 0:
                if limb in DRAWN_LIMBS:
                    new = np.full(PARTS + 1, MISSING)
                    new[[limb.start, limb.end]] = start, end
                    new[SCORE] = peak_scores[[int(start), int(end)]].sum() + score
                    new[PARTS] = 2
                    persons = np.vstack([persons, new])
                continue
            person = persons[sharing[0]]  # a view
            # The other limbs lead to joints that no limb before had, so only the last two can touch two persons.
            other = persons[sharing[1]] if len(sharing) == 2 else None
            if other is not None and not _overlap(person, other):
                person[: len(JOINTS)] = np.maximum(person, other)[: len(JOINTS)]
                person[SCORE] += other[SCORE] + score
                person[PARTS] += other[PARTS]
                persons = np.delete(persons, sharing[1], axis=0)
            elif other is not None or person[limb.end] != end:
                person[limb.end] = end
                person[SCORE] += peak_scores[int(end)] + score
                person[PARTS] += 1
    sure = (persons[:, PARTS] >= FEWEST_PARTS) & (persons[:, SCORE] >= LEAST_MEAN_SCORE * persons[:, PARTS])
    return persons[sure]


def _overlap(person: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two persons both have one of the joints."""
    return bool(((person >= 0) & (other >= 0))[: len(JOINTS)].any())
