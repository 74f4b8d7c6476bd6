"""Framing: what fits is left to the bit, a square stays a square, source and target lie over each other."""

import cv2
import numpy as np
import pytest

from cldm.data.framing import Framing, Placement, parse_size, size_problem


def square(width: int, height: int, corner: tuple[int, int], side: int) -> np.ndarray:
    """A white square on black, uint8 (height, width, 3)."""
    image = np.zeros((height, width, 3), np.uint8)
    image[corner[1] : corner[1] + side, corner[0] : corner[0] + side] = 255
    return image


def bounds(image: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width and height of what is brighter than grey."""
    ys, xs = np.nonzero(image[:, :, 0] > 127)
    return xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1


@pytest.mark.parametrize("framing", [Framing(), *(Framing((128, 64), how) for how in ("resize", "crop", "pad"))])
def test_what_fits_is_left_to_the_bit(framing):
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    place = framing.place((128, 64), [(128, 64)])
    assert place == Placement((128, 64))
    assert np.array_equal(framing.target(image, place), image)
    assert np.array_equal(framing.hint(image, place), image)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("crop", (32, 48, 64, 64)),  # 400x200 becomes 256x128, of which 128 pixels from 64 on are kept
        ("pad", (48, 56, 32, 32)),  # it becomes 128x64, 32 pixels below the upper edge
    ],
)
def test_a_square_stays_a_square_where_it_belongs(how, expected):
    framing = Framing((128, 128), how)
    image = square(400, 200, (150, 75), 100)
    place = framing.place((400, 200), [(400, 200)])
    for framed in (framing.target(image, place), framing.hint(image, place)):
        assert framed.shape == (128, 128, 3)
        assert np.allclose(bounds(framed), expected, atol=1)
    assert (framing.target(image, place)[:31] == 0).all()


@pytest.mark.parametrize("how", ["resize", "crop", "pad"])
@pytest.mark.parametrize("hint_resampling", ["smooth", "nearest"])
def test_a_source_of_half_the_size_lies_over_its_target(how, hint_resampling):
    framing = Framing((64, 64) if how == "resize" else (128, 64), how, hint_resampling)
    place = framing.place((200, 200), [(100, 100)])
    target = framing.target(square(200, 200, (60, 80), 80), place)
    hint = framing.hint(square(100, 100, (30, 40), 40), place)
    assert np.allclose(bounds(target), bounds(hint), atol=1)


@pytest.mark.parametrize("size", [(64, 64), (192, 64), (64, 192)])
@pytest.mark.parametrize("how", ["crop", "pad"])
@pytest.mark.parametrize("image", [(65, 64), (999, 3), (3, 999), (100, 37), (64, 64), (1, 1)])
def test_any_shape_comes_into_any_size(size, how, image):
    framing = Framing(size, how)
    pixels = np.full((image[1], image[0], 3), 200, np.uint8)
    framed = framing.target(pixels, framing.place(image, [image]))
    assert framed.shape == (size[1], size[0], 3)
    assert framed.max() == 200
    if how == "crop":
        assert framed.min() == 200, "nothing is black where the frame is filled"


def test_resize_refuses_to_distort_and_takes_what_only_rounds():
    framing = Framing((512, 512))
    with pytest.raises(
        ValueError, match=r"images are 640x480, and resizing them to 512x512 would distort.*framing=crop"
    ):
        framing.place((640, 480), [(640, 480)])
    assert framing.place((1000, 1000), [(1000, 1000)]) == Placement((512, 512))
    assert Framing((768, 512)).place((1000, 667), [(1000, 667)]) == Placement((768, 512))


def test_source_and_target_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="source is 100x90 and target 200x200, which are of different shapes"):
        Framing((64, 64), "crop").place((200, 200), [(100, 100), (100, 90)])
    with pytest.raises(ValueError, match="source is 64x64 and target 128x128; make them the same size"):
        Framing().place((128, 128), [(64, 64)])


def test_a_thin_line_survives_shrinking_and_labels_stay_labels():
    line = np.zeros((512, 512, 1), np.uint8)
    line[:, 201] = 255
    place = Framing((64, 64)).place((512, 512), [(512, 512)])
    small = Framing((64, 64)).hint(line, place)
    assert (small[:, 25, 0] == 32).all(), "an eighth of the pixel's area is white"
    labels = np.random.default_rng(1).choice([7, 90, 201], (300, 300, 3)).astype(np.uint8)
    nearest = Framing((64, 64), "resize", "nearest")
    assert set(np.unique(nearest.hint(labels, nearest.place((300, 300), [(300, 300)])))) == {7, 90, 201}


def test_resampling_is_by_area_down_and_lanczos_up():
    image = np.random.default_rng(2).integers(0, 256, (128, 128, 3), np.uint8)
    for side, method in ((64, cv2.INTER_AREA), (256, cv2.INTER_LANCZOS4)):
        framing = Framing((side, side))
        framed = framing.target(image, framing.place((128, 128), [(128, 128)]))
        assert np.array_equal(framed, cv2.resize(image, (side, side), interpolation=method))
    grown = Framing((256, 256)).hint(image, Placement((256, 256)))
    assert np.array_equal(grown, cv2.resize(image, (256, 256), interpolation=cv2.INTER_LINEAR))


def test_any_number_of_channels_and_floats_are_framed():
    hint = np.random.default_rng(3).random((100, 100, 6), dtype=np.float32)
    framed = Framing((64, 128), "pad").hint(hint, Framing((64, 128), "pad").place((100, 100), [(100, 100)]))
    assert framed.shape == (128, 64, 6)
    assert framed.dtype == np.float32
    each = [cv2.resize(hint[:, :, i].copy(), (64, 64), interpolation=cv2.INTER_AREA) for i in range(6)]
    assert np.array_equal(framed[32:96], np.stack(each, axis=2))
    assert (framed[:32] == 0).all()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"how": "stretch"}, "framing must be one of resize, crop, pad, got 'stretch'"),
        ({"how": "crop"}, "framing=crop needs the size to crop to, such as size=512"),
        ({"size": (500, 512)}, "multiples of 64 up to 8192, got 500x512"),
        ({"size": (512, 0)}, "got 512x0"),
        ({"hint_resampling": "cubic"}, "hint_resampling must be smooth or nearest, got 'cubic'"),
    ],
)
def test_wrong_framings_are_refused(given, problem):
    with pytest.raises(ValueError, match=problem):
        Framing(**given)


def test_sizes_as_people_write_them():
    assert parse_size(512) == parse_size("512") == (512, 512)
    assert parse_size("512x768") == (512, 768)
    assert parse_size(0) is parse_size("") is None
    with pytest.raises(ValueError, match="WIDTHxHEIGHT such as 512x768, got '512,768'"):
        parse_size("512,768")


def test_sizes_that_fit_are_no_problem():
    assert size_problem((768, 64), (768, 64)) == ""
    assert size_problem((96, 64), (96, 64)).endswith("size=512 framing=crop")
