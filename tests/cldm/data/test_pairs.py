"""Pairs: today's items to the bit, stacked control maps, channel counts that do not match the model's."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cldm.data import DataError, Framing, Row, check_pair, read_hint_alone, read_pair, unit_range
from cldm.data.pairs import Indexed
from ldm.models.diffusion.draws import INDEX


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name, shape in (("colour", (64, 64, 3)), ("grey", (64, 64)), ("target", (64, 64, 3))):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(tmp_path / f"{name}.png")
    Image.fromarray(rng.integers(0, 65536, (64, 64), np.uint16)).save(tmp_path / "depth.png")
    np.save(tmp_path / "map.npy", rng.random((64, 64, 2), np.float32))
    return tmp_path


def row(folder: Path, *sources: str) -> Row:
    files = tuple(folder / source for source in sources)
    return Row(folder / "prompt.json", 7, files if len(files) > 1 else files[0], folder / "target.png", "a circle")


def test_a_colour_image_is_as_it_is(folder):
    source, target = read_pair(row(folder, "colour.png"))
    assert np.array_equal(source, np.asarray(Image.open(folder / "colour.png")))
    assert np.array_equal(target, np.asarray(Image.open(folder / "target.png")))
    assert np.array_equal(unit_range(source), source.astype(np.float32) / 255)


@pytest.mark.parametrize("hint_channels", [None, 3])
def test_a_grey_image_is_repeated_to_three_channels(folder, hint_channels):
    source, _ = read_pair(row(folder, "grey.png"), hint_channels=hint_channels)
    grey = np.asarray(Image.open(folder / "grey.png"))
    assert np.array_equal(source, np.stack([grey] * 3, axis=2))


def test_a_model_of_one_channel_sees_one(folder):
    assert read_pair(row(folder, "grey.png"), hint_channels=1)[0].shape == (64, 64, 1)


@pytest.mark.parametrize("hint_channels", [None, 7])
def test_several_sources_are_stacked_in_their_order(folder, hint_channels):
    source, _ = read_pair(row(folder, "colour.png", "depth.png", "grey.png", "map.npy"), hint_channels=hint_channels)
    depth = np.asarray(Image.open(folder / "depth.png")).astype(np.float32) / 65535
    assert source.dtype == np.float32
    assert np.array_equal(source[:, :, :3], np.asarray(Image.open(folder / "colour.png")).astype(np.float32) / 255)
    assert np.array_equal(source[:, :, 3], depth)
    assert np.array_equal(source[:, :, 5:], np.load(folder / "map.npy"))


@pytest.mark.parametrize(
    ("sources", "hint_channels", "problem"),
    [
        (("colour.png",), 1, "takes 1 hint channels, got 3: .*colour.png has 3.*hint_channels: 3"),
        (("colour.png", "grey.png"), 3, "takes 3 hint channels, got 4: .*colour.png has 3, .*grey.png has 1"),
        (("map.npy",), 3, "takes 3 hint channels, got 2"),
        (("grey.png",), 2, "takes 2 hint channels, got 1"),
    ],
)
def test_channels_that_the_model_does_not_take_are_refused(folder, sources, hint_channels, problem):
    for use in (read_pair, check_pair):
        with pytest.raises(ValueError, match=problem):
            use(row(folder, *sources), hint_channels=hint_channels)
    with pytest.raises(ValueError, match=r"prompt.json, line 7: the model takes"):
        read_pair(row(folder, *sources), hint_channels=hint_channels)


@pytest.mark.parametrize(
    "framing", [Framing(), Framing((128, 128)), Framing((128, 64), "crop"), Framing((64, 128), "pad")]
)
@pytest.mark.parametrize("sources", [("colour.png",), ("grey.png",), ("depth.png", "map.npy")])
def test_a_check_says_what_reading_gives(folder, framing, sources):
    hint, target = read_pair(row(folder, *sources), framing)
    assert check_pair(row(folder, *sources), framing) == (target.shape[1::-1], hint.shape[2])
    assert hint.shape[:2] == target.shape[:2]


def test_a_hint_alone_is_that_of_the_pair(folder, monkeypatch):
    for framing in (Framing(), Framing((64, 128), "crop"), Framing((192, 64), "pad")):
        pair = read_pair(row(folder, "colour.png", "map.npy"), framing)
        alone = read_hint_alone(row(folder, "colour.png", "map.npy"), framing)
        assert np.array_equal(alone, pair[0])
    Image.new("RGB", (128, 64)).save(folder / "target.png")
    with pytest.raises(DataError, match="source is 64x64 and target 128x64"):
        read_hint_alone(row(folder, "colour.png"))


def test_a_check_names_every_file_that_is_bad(folder):
    (folder / "grey.png").unlink()
    (folder / "target.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"no image at \S+grey.png; cannot read \S+target.png as an image"):
        check_pair(row(folder, "colour.png", "grey.png"))


def test_an_indexed_dataset_says_each_items_place():
    assert Indexed([{"txt": "a"}, {"txt": "b"}])[1] == {"txt": "b", INDEX: 1}
