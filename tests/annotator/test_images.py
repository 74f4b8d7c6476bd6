"""Image files to arrays and back, folders of them, and captions."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from annotator import images as module
from annotator.images import caption_of, check_apart, images_in, others_in, read_image, write_png
from odd_exif import ODD_EXIF

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
    for orientation in range(10):
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(tmp_path / "b.png", exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "b.png")))
        np.testing.assert_array_equal(read_image(tmp_path / "b.png"), expected)


@pytest.mark.parametrize("odd", ODD_EXIF)
def test_orientation_is_followed_though_the_rest_of_exif_is_odd(tmp_path, odd):
    pixels = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=ODD_EXIF[odd])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(pixels, -1))


def test_colours_of_a_profile_become_srgb(tmp_path):
    red, alpha = np.full((4, 6, 3), (200, 60, 30), np.uint8), np.full((4, 6, 1), 90, np.uint8)
    cases = [(red, "RGB"), (np.dstack([red, alpha]), "RGBA")]
    for pixels, mode in cases:
        Image.fromarray(pixels).save(tmp_path / "wide.png", icc_profile=swapped_srgb())
        found = read_image(tmp_path / "wide.png")
        assert found.shape == pixels.shape, mode
        assert np.abs(found[..., :3].astype(int) - red[..., [1, 0, 2]]).max() <= 1, mode
        assert np.array_equal(found[..., 3:], pixels[..., 3:]), mode


def test_profiles_that_are_srgb_damaged_or_for_other_channels_change_nothing(tmp_path):
    pixels = RNG.integers(0, 256, (5, 7, 3), np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile", swapped_srgb()[:200]):
        Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png", icc_profile=swapped_srgb())
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.dstack([pixels[..., 0]] * 3))


def swapped_srgb() -> bytes:
    """A profile of sRGB with red and green changed for each other, under another name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"xxxx").replace(b"gXYZ", b"rXYZ").replace(b"xxxx", b"gXYZ")
    return swapped.replace("sRGB".encode("utf-16-be"), "abcd".encode("utf-16-be"))


def test_only_so_many_pixels_are_decoded(tmp_path):
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 32).shape == (4, 8, 3)
    with pytest.raises(ValueError, match=r"a\.png has 8 x 4 pixels, and at most .* megapixels are read; scale it down"):
        read_image(tmp_path / "a.png", 31)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n cut"])
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read a\.png as an image"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("error", [EOFError, struct.error])
def test_whatever_pillow_raises_on_a_damaged_file_is_one_error(tmp_path, monkeypatch, error):
    def raises(image):
        raise error("cut")

    write_png(np.zeros((2, 2), np.uint8), tmp_path / "a.png")
    monkeypatch.setattr(module, "_upright", raises)
    with pytest.raises(ValueError, match=r"cannot read a\.png as an image: it is damaged"):
        read_image(tmp_path / "a.png")


def test_a_missing_file_and_one_that_may_not_be_read_are_not_called_damaged(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"cannot read a\.png as an image: there is no file .*a\.png"):
        read_image(tmp_path / "a.png")

    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", denied)
    with pytest.raises(PermissionError, match=r"cannot read a\.png as an image: permission to read .* is denied"):
        read_image(tmp_path / "a.png")


def test_photos_of_200_megapixels_are_read_and_larger_images_are_called_large(tmp_path, monkeypatch):
    assert module.MOST_PIXELS > 2e8
    assert Image.MAX_IMAGE_PIXELS == module.MOST_PIXELS
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(module, "MOST_PIXELS", 599)
    with pytest.raises(ValueError, match=r"a\.png has 30 x 20 pixels, and at most .* megapixels are read; scale"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    with pytest.raises(ValueError, match=r"a\.png has more than 1198 pixels, and at most .* megapixels are read"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(module, "MOST_PIXELS", 600)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert read_image(tmp_path / "a.png").shape == (20, 30, 3)


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


def test_kinds_of_pictures_are_those_that_pillow_reads_and_others_are_told(tmp_path):
    Image.init()
    known = Image.registered_extensions()
    assert set(module.SUFFIXES) <= set(known) | {".avif"}  # which some builds of Pillow cannot read
    for name in ("a.jfif", "b.AVIF", "c.heic", "c.txt", "deeper/d.pdf", "out/e.pdf", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert images_in(tmp_path, tmp_path / "out") == [Path("a.jfif"), Path("b.AVIF")]
    assert others_in(tmp_path, tmp_path / "out") == [Path("c.heic"), Path("deeper/d.pdf")]


def test_two_can_write_one_file_and_a_failure_leaves_nothing(tmp_path):
    file = tmp_path / "a.txt"
    with module.written_whole(file) as first, module.written_whole(file) as second:
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first"
    with pytest.raises(LookupError), module.written_whole(file) as unfinished:
        unfinished.write_text("no", encoding="none that there is")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert file.read_text() == "first"


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
