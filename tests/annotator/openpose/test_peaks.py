"""Peaks of heat maps."""

import tracemalloc

import numpy as np
import pytest

from annotator.openpose.peaks import find_peaks
from annotator.openpose.resampling import Enlargement, network_size
from openpose_scenes import crowd, network_outputs
from parity import golden


def one_to_one(height: int, width: int) -> Enlargement:
    """Cells that are the pixels."""
    return Enlargement(np.eye(height), np.eye(width))


def blob(height: int, width: int, x: float, y: float) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 4.0**2))


def test_peaks_of_the_golden_heat_maps() -> None:
    expected = golden("openpose_assembly")
    height, width = expected["image_hw"].tolist()
    cells = expected["heatmap"].shape[2:]
    enlargement = Enlargement.between(cells, network_size(height, width), (height, width))
    peaks = np.concatenate(find_peaks(expected["heatmap"][0, :18], enlargement))
    np.testing.assert_array_equal(peaks[:, [0, 1, 3]], expected["candidate"][:, [0, 1, 3]])
    np.testing.assert_allclose(peaks[:, 2], expected["candidate"][:, 2], atol=1e-5)


def test_peaks_are_numbered_through_all_joints_in_reading_order() -> None:
    first = blob(60, 80, 50, 20) + blob(60, 80, 20, 40)
    second = 0.5 * blob(60, 80, 33, 12)
    peaks = find_peaks(np.stack([first, np.zeros((60, 80)), second]), one_to_one(60, 80))
    np.testing.assert_array_equal(peaks[0][:, [0, 1, 3]], [[50, 20, 0], [20, 40, 1]])
    assert peaks[1].shape == (0, 4)
    np.testing.assert_array_equal(peaks[2][:, [0, 1, 3]], [[33, 12, 2]])
    np.testing.assert_allclose(peaks[2][:, 2], 0.5)  # of the map before blurring


def test_threshold_is_on_the_blurred_heat() -> None:
    blurred_to = 4.0**2 / (4.0**2 + 3.0**2)  # of its height, for a Gaussian of sigma 4
    for height, found in ((0.097, 0), (0.104, 1)):
        peaks = find_peaks(height / blurred_to * blob(60, 80, 40, 30)[None], one_to_one(60, 80))
        assert len(peaks[0]) == found


@pytest.mark.parametrize(("x", "y"), [(0, 0), (79, 0), (0, 59), (79, 59), (40, 59)])
def test_peaks_on_the_border_count(x: int, y: int) -> None:
    peaks = find_peaks(blob(60, 80, x, y)[None], one_to_one(60, 80))
    np.testing.assert_array_equal(peaks[0][:, :2], [[x, y]])


def test_noise_is_an_error_not_a_crowd() -> None:
    flat = np.full((1, 8, 8), 0.5)
    enlargement = Enlargement(np.eye(8).repeat(8, axis=0), np.eye(8).repeat(8, axis=1).T)
    with pytest.raises(ValueError, match=r"heat map 0 has \d+ peaks on 64 cells.*check that the checkpoint"):
        find_peaks(flat, enlargement)


def test_memory_at_4k_is_a_few_times_the_images() -> None:
    height, width = 2160, 3840
    _, heatmaps = network_outputs(crowd(2, height, width), height, width)
    enlargement = Enlargement.between(heatmaps.shape[1:], network_size(height, width), (height, width))
    tracemalloc.start()
    peaks = find_peaks(heatmaps[:2], enlargement)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(len(joint) >= 2 for joint in peaks)
    assert most < 5 * (height * width * 3)
