"""Image files to arrays and back, folders of them, and captions."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annotator.images import caption_of, check_apart, images_in, read_image, write_png

RNG = np.random.default_rng(0)


def test_what_was_written_is_read(tmp_path):
    for shape in [(5, 7, 3), (5, 7)]:
        pixels = RNG.integers(0, 256, shape, np.uint8)
        write_png(pixels, tmp_path / "new" / "a.png")
        expected = pixels if pixels.ndim == 3 else np.dstack([pixels] * 3)
        np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.png"), expected)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_alpha_stays_and_palettes_are_resolved(tmp_path):
    rgba = RNG.integers(0, 256, (5, 7, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), rgba)
    Image.fromarray(rgba[:, :, :3]).quantize(8).save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").shape == (5, 7, 3)


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    deep = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[:, :, 1], [[0, 0, 1], [128, 255, 255]])


@pytest.mark.parametrize(("dtype", "found"), [(np.float32, "floating point"), (np.int32, "32-bit integers")])
def test_depth_without_a_known_white_is_refused_not_clipped(tmp_path, dtype, found):
    values = np.array([[0, 0.5], [7, 3000]]).astype(dtype)
    Image.fromarray(values).save(tmp_path / "a.tif")
    advice = f"a.tif has {found}; scale its values to 0..255 or 0..65535, and save it as a PNG of 8 or 16 bits"
    with pytest.raises(ValueError, match=f"expected 8 or 16 bits a channel, but {advice}"):
        read_image(tmp_path / "a.tif")


def test_sixteen_bits_of_a_tiff_are_scaled_too(tmp_path):
    Image.fromarray(np.array([[0, 256], [32768, 65535]], np.uint16)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[:, :, 1], [[0, 1], [128, 255]])


def test_cameras_orientation_is_followed(tmp_path):
    pixels = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(pixels, -1))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n cut"])
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read a\.png as an image"):
        read_image(tmp_path / "a.png")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read a\.png as an image"):
        read_image(tmp_path / "a.png")


def test_images_of_a_folder_without_those_of_one_in_it(tmp_path):
    for name in ("b.JPG", "a/c.png", "a/c.txt", "out/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert images_in(tmp_path, tmp_path / "out") == [Path("a/c.png"), Path("b.JPG")]
    assert images_in(tmp_path / "a", tmp_path) == [Path("c.png")]
    with pytest.raises(FileNotFoundError, match=r"no folder at .*absent; give one with images"):
        images_in(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no images in .*empty; expected are files that end in .png, .jpg"):
        images_in(tmp_path / "empty")


def test_results_are_not_put_among_the_images(tmp_path):
    check_apart(tmp_path, tmp_path / "maps", "maps")
    for out in (tmp_path, tmp_path / "maps" / ".."):
        with pytest.raises(ValueError, match=f"images and maps would be in the same folder, {out}; give another for"):
            check_apart(tmp_path, out, "maps")


def test_captions_are_beside_their_images(tmp_path):
    (tmp_path / "cat.txt").write_bytes(b"\xef\xbb\xbfa cat\n on a mat \n")
    assert caption_of(tmp_path / "cat.jpg") == "a cat on a mat"
    (tmp_path / "dog.txt").write_text(" \n")
    (tmp_path / "cow.txt").write_bytes(b"\xff")
    for name, message in (("dog", "dog.txt is empty"), ("cow", "cow.txt is no UTF-8 text")):
        with pytest.raises(ValueError, match=message):
            caption_of(tmp_path / f"{name}.png")
    with pytest.raises(FileNotFoundError, match=r"no caption, expected in owl.txt"):
        caption_of(tmp_path / "owl.png")
