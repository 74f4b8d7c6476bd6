"""What image-to-image and inpainting start from."""

import numpy as np
import pytest
from PIL import Image

from annotator.util import resize_image
from cldm.records import pixels_of
from cldm.starts import read_start


def test_files_are_scaled_to_the_maps_size(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)
    mask = np.zeros((2, 2), np.uint8)
    mask[0, 1] = 200
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    values = {"init_image": str(tmp_path / "image.png"), "mask": str(tmp_path / "mask.png")}
    start = read_start(values, (64, 128))
    assert np.array_equal(start.image, image)
    assert np.array_equal(start.mask, mask.repeat(32, axis=0).repeat(64, axis=1))
    assert start.arrays() == {"image": start.image, "mask": start.mask}
    assert np.array_equal(pixels_of(start.pngs()["init_image"]), image)
    assert np.array_equal(pixels_of(start.pngs()["mask"]), start.mask)
    assert read_start({**values, "mask": None}, (32, 64)).image.shape == (32, 64, 3)


def test_of_an_image_of_another_shape_the_middle_is_taken_and_of_its_mask_likewise():
    image = np.random.default_rng(0).integers(0, 256, (64, 192, 3), dtype=np.uint8)
    mask = np.zeros((32, 96), np.uint8)
    mask[:, 32:64] = 255
    start = read_start({"init_image": image, "mask": mask}, (64, 64))
    assert np.array_equal(start.image, image[:, 64:128])
    assert (start.mask == 255).all()
    assert start.notices == (
        "Of the image to start from, 192 x 64, the middle 64 x 64 was taken, which is of the control map's shape.",
    )
    tall = read_start({"init_image": image.swapaxes(0, 1)}, (64, 64))
    assert np.array_equal(tall.image, image.swapaxes(0, 1)[64:128])


def test_an_image_of_the_maps_picture_is_scaled_as_that_was():
    image = np.random.default_rng(0).integers(0, 256, (100, 140, 3), dtype=np.uint8)
    start = read_start({"init_image": image}, (64, 64))
    assert np.array_equal(start.image, resize_image(image, 64))
    assert start.notices == ()


def test_a_coloured_or_transparent_mask_counts_where_it_is_light(tmp_path):
    mask = np.zeros((64, 64, 4), np.uint8)
    mask[..., 3] = 255
    mask[:, 32:, 0] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    values = {"init_image": str(tmp_path / "mask.png"), "mask": str(tmp_path / "mask.png")}
    assert np.array_equal(read_start(values, (64, 64)).mask > 127, mask[..., 0] > 127)


def test_what_is_transparent_is_dark_in_a_mask_and_white_in_an_image(tmp_path):
    layers = np.zeros((64, 64, 4), np.uint8)
    layers[..., :3] = 255
    layers[10:20, :, 3] = 255
    layers[20:30, :, 3] = 100
    layers[30:40, :] = (0, 0, 0, 255)
    Image.fromarray(layers).save(tmp_path / "layers.png")
    Image.fromarray(layers).convert("LA").save(tmp_path / "grey.png")
    for given in (str(tmp_path / "layers.png"), str(tmp_path / "grey.png"), layers):
        start = read_start({"init_image": given, "mask": given}, (64, 64))
        assert start.mask[:, 0].tolist() == [0] * 10 + [255] * 10 + [100] * 10 + [0] * 34
        assert (start.image[:30] == 255).all()
        assert (start.image[30:40] == 0).all()


def test_without_files_there_is_nothing_to_start_from():
    start = read_start({"init_image": None}, (64, 64))
    assert start.arrays() == {"image": None, "mask": None}
    assert start.pngs() == {"init_image": None, "mask": None}


def test_a_mask_alone_and_what_is_no_picture_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected an init_image together with the mask"):
        read_start({"mask": "mask.png"}, (64, 64))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"cannot read text.png as an image"):
        read_start({"init_image": str(tmp_path / "text.png")}, (64, 64))
