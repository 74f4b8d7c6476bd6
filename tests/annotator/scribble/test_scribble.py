"""Dark strokes, and strokes of soft edges."""

import cv2
import numpy as np
import pytest

from annotator.hed import nms
from annotator.scribble import ScribbleDetector, strokes


def test_what_is_dark_in_any_channel_is_a_stroke():
    image = np.full((4, 6, 3), 255, np.uint8)
    image[1, 1:4] = [(0, 0, 0), (255, 126, 255), (127, 127, 127)]
    expected = np.zeros((4, 6), np.uint8)
    expected[1, 1:3] = 255
    np.testing.assert_array_equal(ScribbleDetector()(image), expected)


def test_transparent_paper_is_white():
    image = np.zeros((4, 4, 4), np.uint8)
    image[2, 2, 3] = 255
    assert np.argwhere(ScribbleDetector()(image)).tolist() == [[2, 2]]


def test_soft_edges_become_strokes_of_one_kind_of_white():
    soft = cv2.GaussianBlur(cv2.circle(np.zeros((96, 96), np.uint8), (48, 48), 30, 255, 9), (0, 0), 2)
    found = strokes(soft)
    ridges = nms(soft, 127, 3.0)
    assert ridges.any()
    assert set(np.unique(found)) == {0, 255}
    blurred = cv2.GaussianBlur(ridges, (0, 0), 3.0)
    np.testing.assert_array_equal(found == 255, blurred > 4)
    np.testing.assert_array_equal(strokes(np.dstack([soft] * 3)), found)
    assert not strokes(np.zeros((32, 32), np.uint8)).any()


def test_a_checkpoint_is_refused():
    with pytest.raises(ValueError, match=r"scribbles need no weights, got checkpoint='x.pth'; leave it out"):
        ScribbleDetector("x.pth")
