"""Skeletons and hands on black."""

import math

import cv2
import numpy as np

from annotator.openpose.drawing import draw_hands, draw_skeletons
from annotator.openpose.skeleton import COLOURS, DRAWN_LIMBS, HAND_COLOURS
from openpose_scenes import FIGURE
from parity import golden


def black(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), dtype=np.uint8)


def person(joints: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (18, 4) and a person (20,) with all joints."""
    numbers = np.arange(18.0) + first
    return np.column_stack([joints, np.ones(18), numbers]), np.append(numbers, [30, 18])


def test_golden_canvas_is_drawn_to_the_bit() -> None:
    expected = golden("openpose_assembly")
    canvas = draw_skeletons(black(*expected["image_hw"]), expected["candidate"], expected["subset"])
    np.testing.assert_array_equal(canvas, expected["canvas_rgb"])


def test_blending_near_the_limb_is_blending_the_whole_canvas() -> None:
    rng = np.random.default_rng(0)
    figures = [person(rng.integers(0, (90, 70), size=(18, 2)), first=18 * i) for i in range(3)]
    candidates, persons = np.concatenate([c for c, _ in figures]), np.stack([p for _, p in figures])
    expected = black(70, 90)
    for joint, colour in enumerate(COLOURS):
        for row in persons:
            cv2.circle(expected, candidates[int(row[joint]), :2].astype(int).tolist(), 4, colour, -1)
    for limb, colour in zip(DRAWN_LIMBS, COLOURS, strict=False):
        for row in persons:
            (x0, y0), (x1, y1) = candidates[row[[limb.start, limb.end]].astype(int), :2]
            centre = int((x0 + x1) / 2), int((y0 + y1) / 2)
            axes = int(math.hypot(x0 - x1, y0 - y1) / 2), 4
            outline = cv2.ellipse2Poly(centre, axes, int(math.degrees(math.atan2(y0 - y1, x0 - x1))), 0, 360, 1)
            limb_drawn = cv2.fillConvexPoly(expected.copy(), outline, colour)
            expected = cv2.addWeighted(expected, 0.4, limb_drawn, 0.6, 0)
    np.testing.assert_array_equal(draw_skeletons(black(70, 90), candidates, persons), expected)


def test_missing_joints_and_their_limbs_are_left_out() -> None:
    candidates, row = person(FIGURE * 300 + (100, 10))
    row[[0, *range(2, 18)]] = -1
    canvas = draw_skeletons(black(320, 200), candidates, row[None])
    drawn = np.argwhere(canvas.any(axis=2))
    neck = candidates[1, 1::-1].astype(int)
    assert np.abs(drawn - neck).max() == 4  # the neck's disc alone
    assert (canvas[tuple(neck)] == COLOURS[1]).all()


def test_nobody_is_black_and_the_canvas_stays_the_callers() -> None:
    canvas = black(20, 30)
    drawn = draw_skeletons(canvas, np.empty((0, 4)), np.empty((0, 20)))
    assert drawn is not canvas
    assert not drawn.any()
    candidates, row = person(FIGURE * 20 + (15, 0))
    assert draw_skeletons(canvas, candidates, row[None]).any()
    assert not canvas.any()


def test_hand_has_coloured_bones_under_blue_joints() -> None:
    hand = np.zeros((21, 3))
    hand[0] = 20, 50, 0.5
    hand[1] = 60, 50, 0.5
    hand[3] = 80, 20, 0.5  # joint 2 is missing, so this one has no bone
    canvas = draw_hands(black(70, 100), [hand])
    assert (canvas[50, 20] == (0, 0, 255)).all()
    assert (canvas[50, 60] == (0, 0, 255)).all()
    assert (canvas[20, 80] == (0, 0, 255)).all()
    assert (canvas[50, 40] == HAND_COLOURS[0]).all()
    assert canvas[:, 40].any(axis=1).sum() == 3  # what OpenCV draws two thick on whole pixels
    assert not canvas[:10, :10].any()  # joints that were not found are not drawn in the corner
    assert not canvas[30:40, 65:76].any()
