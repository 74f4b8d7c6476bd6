"""Measures of a generated shape, against values known by construction."""

import numpy as np
import pytest

from cldm.fidelity import (
    colour_errors,
    drawn_colours,
    drawn_shape,
    edge_fidelity,
    iou,
    plain_shape,
    shape_fidelity,
)
from cldm.shapes import COLOURS, Scene, sample_scene

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


def scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [sample_scene(rng) for _ in range(count)]


@pytest.mark.parametrize("size", [128, 512])
def test_plain_shapes_and_their_colours_are_known(size):
    for scene in scenes(30):
        found = plain_shape(scene.image(size))
        assert found is not None, scene.prompt
        expected = COLOURS[scene.colour], COLOURS[scene.background]
        np.testing.assert_allclose(found, expected, atol=1, err_msg=scene.prompt)


def test_pictures_and_plain_surfaces_are_no_plain_shapes():
    rng = np.random.default_rng(0)
    assert plain_shape(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)) is None
    assert plain_shape(np.full((64, 64, 3), 99, np.uint8)) is None
    gradient = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[:, None, None], (64, 64, 3))
    assert plain_shape(gradient) is None


def test_fidelity_of_a_shape_is_its_overlap_with_the_targets():
    target = image_of(square())
    assert shape_fidelity(target, target) == 1
    assert shape_fidelity(image_of(np.roll(square(), 16, axis=1)), target) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="expected a target of one plain shape on a plain background"):
        shape_fidelity(target, np.full((64, 64, 3), 99, np.uint8))


def test_edges_that_are_near_count_and_others_do_not():
    target = image_of(square(256, 64, 192))
    assert edge_fidelity(target, target) == 1
    assert edge_fidelity(np.roll(target, 2, axis=0), target) == 1, "2 pixels are within a 128th of 256"
    assert edge_fidelity(np.roll(target, 8, axis=(0, 1)), target) < 0.2
    assert edge_fidelity(np.full_like(target, 99), target) == 0
    assert edge_fidelity(np.full_like(target, 99), np.full_like(target, 9)) == 1


def test_half_of_the_edges_and_nothing_else_is_an_f1_of_two_thirds():
    both = np.zeros((256, 256, 3), np.uint8)
    both[64:192, 32:64] = both[64:192, 160:192] = 255
    one = both.copy()
    one[:, :128] = 0
    assert edge_fidelity(one, both) == pytest.approx(2 / 3, abs=0.01)
    assert edge_fidelity(both, one) == pytest.approx(2 / 3, abs=0.01)


def test_edges_of_images_of_different_size_are_not_compared():
    with pytest.raises(ValueError, match=r"expected images of one size, got \(64, 64\) and \(32, 64\)"):
        edge_fidelity(np.zeros((64, 64, 3), np.uint8), np.zeros((32, 64, 3), np.uint8))
