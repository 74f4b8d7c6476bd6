"""Canny against what an edge is, and against controlnet_aux."""

import numpy as np
import pytest
from parity import golden

from annotator.canny import CannyDetector


def test_a_square_gives_its_outline_alone():
    image = np.zeros((64, 96, 3), np.uint8)
    image[16:48, 24:72] = 255
    edges = CannyDetector()(image)
    assert edges.dtype == np.uint8
    assert edges.shape == (64, 96)
    assert set(np.unique(edges)) == {0, 255}
    rows, columns = np.nonzero(edges)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) in {(15, 47, 23, 71), (16, 48, 24, 72)}
    assert not edges[20:44, 28:68].any()


def test_equals_controlnet_aux_with_positional_thresholds():
    theirs = pytest.importorskip("controlnet_aux.canny").CannyDetector()
    image = golden("hed")["image"]
    expected = theirs(image, 50, 120, 192, 192, "np")[:, :, 0]
    assert expected.any()
    np.testing.assert_array_equal(CannyDetector()(image, 50, 120), expected)


def test_higher_thresholds_leave_fewer_edges():
    canny, image = CannyDetector(), golden("hed")["image"]
    low, high = canny(image, 20, 60), canny(image, 100, 200)
    assert low.sum() > high.sum() > 0
    assert (low >= high).all()


def test_a_constant_image_has_no_edges_and_grey_and_alpha_are_taken():
    canny = CannyDetector()
    assert not canny(np.full((40, 30, 3), 200, np.uint8)).any()
    grey = golden("hed")["image"][:, :, 0]
    np.testing.assert_array_equal(canny(grey), canny(np.dstack([grey] * 3)))
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    np.testing.assert_array_equal(canny(opaque), canny(grey))


@pytest.mark.parametrize("shape", [(8000, 1, 3), (1, 8000, 3), (1, 1, 3)])
def test_extreme_shapes_keep_their_shape(shape):
    assert CannyDetector()(np.zeros(shape, np.uint8)).shape == shape[:2]


@pytest.mark.parametrize("thresholds", [(-1, 200), (100, -5), (float("nan"), 200), (100, float("nan"))])
def test_impossible_thresholds_are_refused(thresholds):
    with pytest.raises(ValueError, match="thresholds of at least 0"):
        CannyDetector()(np.zeros((8, 8, 3), np.uint8), *thresholds)


def test_a_checkpoint_is_refused():
    with pytest.raises(ValueError, match=r"no weights to load, got checkpoint='a\.pth'"):
        CannyDetector("a.pth")
