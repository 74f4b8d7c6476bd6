"""Scaling to the network's input and back."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from annotator.openpose.resampling import Enlargement, network_input, network_size, output_array

CPU = torch.device("cpu")
SIZES = [(368, 496), (512, 768), (100, 61), (17, 300), (900, 1)]


def enlargement_of(height: int, width: int) -> tuple[Enlargement, np.ndarray, np.ndarray]:
    """An enlargement, a random map, and the map enlarged by OpenCV."""
    scaled_height, scaled_width = network_size(height, width)
    cells = -(-scaled_height // 8), -(-scaled_width // 8)
    maps = np.random.default_rng(0).random(cells, dtype=np.float32)
    large = cv2.resize(maps, (8 * cells[1], 8 * cells[0]), interpolation=cv2.INTER_CUBIC)
    large = cv2.resize(large[:scaled_height, :scaled_width], (width, height), interpolation=cv2.INTER_CUBIC)
    return Enlargement.between(cells, (scaled_height, scaled_width), (height, width)), maps, large


@pytest.mark.parametrize("size", SIZES)
def test_enlarging_is_two_cubic_resizes_with_the_padding_cut_off(size: tuple[int, int]) -> None:
    enlargement, cells, expected = enlargement_of(*size)
    np.testing.assert_allclose(enlargement.enlarge(cells), expected, atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_blurring_is_a_gaussian_filter_of_the_enlarged_map(size: tuple[int, int]) -> None:
    enlargement, cells, large = enlargement_of(*size)
    expected = gaussian_filter(large.astype(np.float64), sigma=3)
    np.testing.assert_allclose(enlargement.blurred(3).enlarge(cells), expected, atol=2e-6)


def test_reading_points_is_indexing_the_enlarged_map() -> None:
    enlargement, cells, _ = enlargement_of(50, 90)
    x, y = np.random.default_rng(1).integers(0, (90, 50), size=(30, 2)).T
    maps = np.stack([cells, 2 - cells])
    expected = np.stack([enlargement.enlarge(one)[y, x] for one in maps])
    np.testing.assert_allclose(enlargement.read(maps, x, y), expected, atol=1e-12)


def test_input_is_bgr_centred_at_zero_and_padded_with_zero() -> None:
    image = np.zeros((184, 250, 3), dtype=np.uint8)
    image[..., 0] = 255
    pixels = network_input(image, 184, 250, CPU)
    assert pixels.shape == (1, 3, 184, 256)
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels[0, :, 90, 100], [-0.5, -0.5, 255 / 256 - 0.5])
    assert (pixels[..., 250:] == 0).all()
    assert (pixels[..., :250] != 0).all()


def test_scaling_keeps_the_proportions() -> None:
    assert network_size(368, 496) == (184, 248)
    assert network_size(100, 333) == (184, 613)
    assert network_size(8000, 1) == (184, 1)
    assert network_size(250, 8000) == (184, 5888)


def test_strips_are_refused_before_they_fill_the_memory() -> None:
    with pytest.raises(ValueError, match="at most 32 times wider than high, got height 100 and width 8000; cut"):
        network_size(100, 8000)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_output_that_is_not_finite_is_an_error(wrong: float) -> None:
    maps = torch.zeros(1, 2, 3, 4)
    assert output_array(maps).shape == (2, 3, 4)
    maps[0, 1, 2, 3] = wrong
    with pytest.raises(ValueError, match="not finite; check that the checkpoint"):
        output_array(maps)
