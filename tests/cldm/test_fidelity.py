"""Measures of a generated shape, against values known by construction."""

import numpy as np
import pytest

from cldm.fidelity import colour_errors, drawn_colours, drawn_shape, iou

RED, NAVY = (255, 0, 0), (0, 0, 128)


def image_of(mask: np.ndarray, colour=RED, background=NAVY) -> np.ndarray:
    return np.where(mask[..., None], np.uint8(colour), np.uint8(background))


def square(side: int = 64, low: int = 16, high: int = 48) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[low:high, low:high] = True
    return mask


def test_overlap_of_shifted_squares():
    a, b = square(), np.roll(square(), 16, axis=1)
    assert iou(a, b) == pytest.approx(1 / 3)
    assert iou(a, a) == 1
    assert iou(a, ~a) == 0
    assert iou(np.zeros_like(a), np.zeros_like(a)) == 1


def test_the_shape_is_found_in_noisy_and_shifted_colours():
    noise = np.random.default_rng(0).normal(0, 15, (64, 64, 3))
    noisy = np.clip(image_of(square(), (220, 20, 30), (20, 10, 100)) + noise, 0, 255).astype(np.uint8)
    assert iou(drawn_shape(noisy, RED, NAVY), square()) > 0.99


def test_colour_errors_are_the_mean_of_the_channels():
    image = image_of(square(), (249, 6, 0), (3, 0, 128))
    assert colour_errors(image, RED, NAVY) == (pytest.approx(4), pytest.approx(1))


def test_an_image_without_a_shape_counts_the_background_for_it():
    image = image_of(np.zeros((64, 64), bool))
    shape, background = drawn_colours(image, RED, NAVY)
    assert (shape == background).all()
    assert colour_errors(image, RED, NAVY)[0] == pytest.approx((255 + 0 + 128) / 3)


def test_a_shape_in_the_wrong_colour_is_an_error_of_that_size():
    image = image_of(square(), (0, 255, 0), NAVY)
    assert colour_errors(image, RED, NAVY)[0] == pytest.approx((255 + 255) / 3)
