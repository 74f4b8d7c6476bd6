"""Which joints belong together: limbs, by the part affinity fields between them (Cao et al., section 2.3)."""

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from annotator.openpose.resampling import Enlargement
from annotator.openpose.skeleton import Limb

POINTS = 10  # samples of the field between two joints
FIELD_THRESHOLD = 0.05
AGREEING = 0.8  # share of the samples that must exceed the threshold
PAIRS_AT_ONCE = 4096  # bounds the memory that a crowd takes


def find_limbs(
    limb: Limb,
    starts: NDArray[np.float64],
    ends: NDArray[np.float64],
    fields: NDArray[np.floating],
    enlargement: Enlargement,
) -> NDArray[np.float64]:
    """Pair the peaks of two joints, the best pair first and each peak at most once.

    Args:
        limb: The limb whose field is followed.
        starts: Peaks of its first joint, (n, 4) as `find_peaks` gives them.
        ends: Peaks of its second joint, (m, 4).
        fields: All part affinity fields, (38, H, W) on the network's cells.
        enlargement: From these cells to the pixels of the image.

    Returns:
        Accepted limbs in the order of acceptance, (limbs, 3): numbers of the start and the end peak, score.
    """
    field = fields[limb.field : limb.field + 2]
    first, second = np.indices((len(starts), len(ends))).reshape(2, -1)
    score = np.full(len(first), -np.inf)
    for i in range(0, len(first), PAIRS_AT_ONCE):
        chunk = slice(i, i + PAIRS_AT_ONCE)
        score[chunk] = _score(starts[first[chunk], :2], ends[second[chunk], :2], field, enlargement)
    pairs = np.column_stack([starts[first, 3], ends[second, 3], score])
    pairs = pairs[score > 0]
    return _accept(pairs[np.argsort(-pairs[:, 2], kind="stable")])


def _score(
    start: NDArray[np.float64], end: NDArray[np.float64], field: NDArray[np.floating], enlargement: Enlargement
) -> NDArray[np.float64]:
    """Mean of the field along each of n lines, eqs. (10) and (11), less a penalty for length; -inf where it disagrees.

    Args:
        start: x, y in pixels, (n, 2).
        end: The same.
        field: x and y component, (2, H, W).
        enlargement: From the field's cells to pixels.

    Returns:
        Scores (n,).
    """
    along = end - start
    length = np.maximum(np.linalg.norm(along, axis=1), 1e-3)
    x, y = rearrange(np.rint(np.linspace(start, end, POINTS)).astype(np.intp), "point pair xy -> xy (point pair)")
    vectors = rearrange(enlargement.read(field, x, y), "xy (point pair) -> pair point xy", point=POINTS)
    projected = np.einsum("npa,na->np", vectors, along / length[:, None])
    # Lines longer than half the image's height lose up to 1.
    score = projected.mean(axis=1) + np.minimum(0.5 * len(enlargement.rows) / length - 1, 0)
    agrees = (projected > FIELD_THRESHOLD).sum(axis=1) > AGREEING * POINTS
    return np.where(agrees, score, -np.inf)


def _accept(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rows of sorted `pairs` neither of whose peaks an earlier accepted row has."""
    taken_starts, taken_ends = set(), set()
    accepted = []
    for row, (start, end) in enumerate(pairs[:, :2].tolist()):
        if start not in taken_starts and end not in taken_ends:
            taken_starts.add(start)
            taken_ends.add(end)
            accepted.append(row)
    return pairs[accepted]
