"""Arrays in and out: masks of latents, repainting to the bit, and what is refused."""

import numpy as np
import pytest
import torch

from cldm.arrays import as_image, as_pixels, check_image, check_mask, kept_latents, repainted

RNG = np.random.default_rng(0)
IMAGE, PAINTED = (RNG.integers(0, 256, (64, 128, 3), np.uint8) for _ in range(2))


def test_an_image_survives_the_way_to_pixels_and_back():
    assert np.array_equal(as_image(as_pixels(IMAGE)[0]), IMAGE)
    assert as_image(torch.full((3, 1, 1), 3.0)).tolist() == [[[255, 255, 255]]]


def test_reversed_channels_are_read_as_they_stand():
    assert np.array_equal(as_image(as_pixels(IMAGE[..., ::-1])[0]), IMAGE[..., ::-1])


def test_a_latent_is_repainted_if_any_of_its_pixels_is():
    mask = np.zeros((64, 128), np.uint8)
    mask[7, 16] = mask[63, 127] = 255
    mask[32, 32] = 127  # not above the threshold
    kept = kept_latents(mask, 8)
    assert kept.shape == (1, 1, 8, 16)
    assert (kept == 0).nonzero().tolist() == [[0, 0, 0, 2], [0, 0, 7, 15]]


@pytest.mark.parametrize("border", [0, 1, 5, 40])
def test_what_is_outside_the_mask_stays_to_the_bit(border):
    mask = np.zeros((64, 128), np.uint8)
    mask[10:50, 30:100] = 255
    result = repainted(IMAGE, PAINTED, mask, border)
    assert result.dtype == np.uint8
    assert np.array_equal(result[mask == 0], IMAGE[mask == 0])
    assert not np.array_equal(result[30, 65], IMAGE[30, 65])


def test_a_border_goes_evenly_from_the_one_to_the_other():
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 20:] = 255
    black, white = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)
    assert repainted(black, white, mask, 0)[5, 18:22, 0].tolist() == [0, 0, 255, 255]
    assert repainted(black, white, mask, 3)[5, 18:26, 0].tolist() == [0, 0, 64, 128, 191, 255, 255, 255]
    everything = np.full((64, 64), 255, np.uint8)
    assert np.array_equal(repainted(black, white, everything, 9), white), "the image's edge is no border of the mask"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((64, 64, 3), np.uint8), r"mask must be \(64, 128\), as large as the image, got \(64, 64, 3\)"),
        (np.zeros((64, 128), bool), r"mask must be a uint8 array \(h, w\), got bool"),
        (np.full((64, 128), 127, np.uint8), "mask must be above 127 where to repaint, got 127 at most"),
    ],
)
def test_a_wrong_mask_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_mask(wrong, (64, 128))


def test_a_wrong_image_is_named_as_the_caller_does():
    assert check_image("image", IMAGE) == (64, 128)
    with pytest.raises(ValueError, match=r"image must be a uint8 array .* got float64"):
        check_image("image", IMAGE / 255)
