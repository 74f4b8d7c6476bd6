"""Skeletons and hands as coloured figures on black, in the look that the published ControlNets were trained on."""

import math
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from annotator.openpose.skeleton import COLOURS, DRAWN_LIMBS, HAND_BONES, HAND_COLOURS, JOINTS

RADIUS = 4  # of joints, and half the thickness of limbs, in pixels
OPACITY = 0.6  # of limbs
BONE_THICKNESS = 2
HAND_JOINT_COLOUR = (0, 0, 255)


def draw_skeletons(
    canvas: NDArray[np.uint8], candidates: NDArray[np.float64], persons: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Draw joints, then translucent limbs over them.

    Args:
        canvas: RGB (h, w, 3); left as it is.
        candidates: Peaks (n, 4) as `find_persons` gives them.
        persons: Persons (m, 20) likewise.

    Returns:
        A copy of the canvas with the figures.
    """
    canvas = canvas.copy()
    joints = persons[:, : len(JOINTS)].astype(int)
    for joint, colour in enumerate(COLOURS):
        for peak in joints[:, joint]:
            if peak >= 0:
                x, y = candidates[peak, :2].astype(int).tolist()
                cv2.circle(canvas, (x, y), RADIUS, colour, thickness=cv2.FILLED)
    for limb, colour in zip(DRAWN_LIMBS, COLOURS, strict=False):  # one colour is left over
        for start, end in joints[:, [limb.start, limb.end]]:
            if start >= 0 and end >= 0:
                _blend_ellipse(canvas, candidates[start, :2], candidates[end, :2], colour)
    return canvas


def _blend_ellipse(
    canvas: NDArray[np.uint8], start: NDArray[np.float64], end: NDArray[np.float64], colour: tuple[int, ...]
) -> None:
    """Lay a translucent ellipse from `start` to `end`, x and y each, over the canvas in place."""
    x, y = ((start + end) / 2).astype(int).tolist()
    along_x, along_y = start - end
    half_axes = int(math.hypot(along_x, along_y) / 2), RADIUS
    angle = int(math.degrees(math.atan2(along_y, along_x)))
    outline = cv2.ellipse2Poly((x, y), half_axes, angle, 0, 360, 1)
    # Blending leaves pixels outside the ellipse as they are, so its surroundings are all that is copied.
    left, top = np.maximum(outline.min(axis=0), 0)
    right, bottom = outline.max(axis=0) + 1
    surroundings = canvas[top:bottom, left:right]
    filled = surroundings.copy()
    cv2.fillConvexPoly(filled, outline - np.array([left, top], dtype=np.int32), colour)
    cv2.addWeighted(surroundings, 1 - OPACITY, filled, OPACITY, 0, dst=filled)
    surroundings[:] = filled


def draw_hands(canvas: NDArray[np.uint8], hands: Iterable[NDArray[np.float64]]) -> NDArray[np.uint8]:
    """Draw the bones of each hand, then its joints over them; joints that were not found are left out.

    Args:
        canvas: RGB (h, w, 3); left as it is.
        hands: For each x, y and score of the joints, (21, 3); a score of 0 means not found.

    Returns:
        A copy of the canvas with the hands.
    """
    canvas = canvas.copy()
    for hand in hands:
        points = [tuple(point) for point in hand[:, :2].astype(int).tolist()]
        found = hand[:, 2] > 0
        for (start, end), colour in zip(HAND_BONES, HAND_COLOURS, strict=True):
            if found[start] and found[end]:
                cv2.line(canvas, points[start], points[end], colour, BONE_THICKNESS)
        for point in np.flatnonzero(found):
            cv2.circle(canvas, points[point], RADIUS, HAND_JOINT_COLOUR, thickness=cv2.FILLED)
    return canvas
