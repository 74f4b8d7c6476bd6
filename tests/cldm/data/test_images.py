"""Control maps of every kind of file: known values, channels, and what is refused."""

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, PngImagePlugin

from cldm.data.images import Member, check_hint, check_image, image_size, read_hint, read_image
from odd_exif import ODD_EXIF


def png(folder, mode: str, colour) -> object:
    Image.new(mode, (3, 2), colour).save(folder / "a.png")
    return folder / "a.png"


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 200, [200]),
        ("1", 1, [255]),
        ("LA", (0, 0), [255]),
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (9, 9, 9, 0), [255, 255, 255]),
    ],
)
def test_channels_are_the_files_own(tmp_path, mode, colour, expected):
    file = png(tmp_path, mode, colour)
    hint = read_hint(file)
    assert hint.dtype == np.uint8
    assert hint.shape == (2, 3, len(expected))
    assert hint[0, 0].tolist() == expected
    assert check_hint(file) == ((3, 2), len(expected))


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGB", "RGBA", "CMYK"])
def test_colours_are_those_of_read_image_to_the_bit(tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.tiff")
    assert np.array_equal(np.broadcast_to(read_hint(tmp_path / "a.tiff"), (8, 8, 3)), read_image(tmp_path / "a.tiff"))


def test_depth_of_16_bits_keeps_them(tmp_path):
    depth = np.array([[0, 1, 256], [257, 65534, 65535]], np.uint16)
    Image.fromarray(depth).save(tmp_path / "a.png")
    hint = read_hint(tmp_path / "a.png")
    assert hint.dtype == np.float32
    assert np.array_equal(hint[:, :, 0], depth.astype(np.float32) / 65535)
    assert check_hint(tmp_path / "a.png") == ((3, 2), 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.25, 1.0]]), [[[0.25], [1.0]]]),
        (np.array([[[0, 0.5], [1, 0]]], np.float16), [[[0, 0.5], [1, 0]]]),
        (np.array([[0, 65535]], np.uint16), [[[0], [1]]]),
        (np.array([[True, False]]), [[[1], [0]]]),
    ],
)
def test_arrays_are_floats_of_their_channels(tmp_path, values, expected):
    np.save(tmp_path / "a.npy", values)
    hint = read_hint(tmp_path / "a.npy")
    assert hint.dtype == np.float32
    assert hint.tolist() == expected
    assert check_hint(tmp_path / "a.npy") == ((hint.shape[1], hint.shape[0]), hint.shape[2])


def test_arrays_of_8_bits_stay_so(tmp_path):
    np.save(tmp_path / "a.npy", np.full((2, 3, 5), 7, np.uint8))
    assert read_hint(tmp_path / "a.npy").dtype == np.uint8


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.array([[0.0, 2.0]]), r"expected floats in \[0, 1\], got 0.0 to 2.0"),
        (np.array([[0.0, np.nan]]), r"expected floats in \[0, 1\], got nan"),
        (np.array([[1]]), "expected uint8, uint16, bool or floats.*got int64"),
        (np.zeros(4), r"expected an array \(h, w\) or \(h, w, channels\), got the shape \(4,\)"),
        (np.array([{"a": 1}], dtype=object), "cannot read .*a.npy as an array"),
    ],
)
def test_other_arrays_are_refused_and_nothing_is_unpickled(tmp_path, values, problem):
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with pytest.raises(ValueError, match=problem):
        read_hint(tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_a_size_is_that_of_the_upright_image_and_nothing_is_decoded(tmp_path, monkeypatch, suffix, orientation):
    file = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (24, 16)).save(file, **({"exif": exif} if orientation else {}))
    expected = read_image(file).shape[1::-1]
    assert expected == ((16, 24) if orientation in (6, 8) else (24, 16))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    assert image_size(file) == expected


@pytest.mark.parametrize("odd", ODD_EXIF)
def test_orientation_is_followed_though_the_rest_of_exif_is_odd(tmp_path, odd):
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=ODD_EXIF[odd])
    assert np.array_equal(read_image(tmp_path / "a.png")[..., 0], np.rot90(pixels, -1))
    assert np.array_equal(read_hint(tmp_path / "a.png")[..., 0], np.rot90(pixels, -1))
    assert image_size(tmp_path / "a.png") == check_image(tmp_path / "a.png") == (4, 6)


def test_a_png_that_says_otherwise_how_it_lies_is_turned_as_when_it_is_read(tmp_path):
    told = PngImagePlugin.PngInfo()
    told.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    Image.new("RGB", (24, 16)).save(tmp_path / "a.png", pnginfo=told)
    assert image_size(tmp_path / "a.png") == read_image(tmp_path / "a.png").shape[1::-1] == (16, 24)


def test_members_of_shards_are_read_as_files_are(tmp_path):
    file = png(tmp_path, "RGB", (1, 2, 3))
    member = Member("a shard's a.png", file.read_bytes())
    assert np.array_equal(read_hint(member), read_hint(file))
    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    assert read_hint(Member("a.npy", (tmp_path / "a.npy").read_bytes())).shape == (2, 2, 1)
    for broken in (b"", b"no image", file.read_bytes()[:-30]):
        with pytest.raises(ValueError, match=r"cannot read a shard's a.png as an image"):
            read_hint(Member("a shard's a.png", broken))
