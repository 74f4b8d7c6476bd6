"""The pictures of test_imgs/: listed with source, author and licence, readable, small, and drawn by their script."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cldm.data import read_image

FOLDER = Path(__file__).parents[1] / "test_imgs"
PICTURES = sorted(file.name for file in FOLDER.iterdir() if file.suffix not in (".md", ".py") and file.is_file())
EACH_PICTURE = pytest.mark.parametrize("name", PICTURES)


def load_script():
    spec = importlib.util.spec_from_file_location("make_drawings", FOLDER / "make_drawings.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


DRAWINGS = {f"{draw.__name__}.png": draw for draw in load_script().DRAWINGS}


def listed() -> dict[str, list[str]]:
    """The README's table: name -> shows, source, author, licence."""
    rows = [line.strip("| ").split(" | ") for line in (FOLDER / "README.md").read_text().splitlines()]
    return {row[0].strip("`"): row[1:] for row in rows if len(row) == 5 and row[0].startswith("`")}


def test_every_picture_is_listed_and_every_listed_one_is_there():
    assert sorted(listed()) == PICTURES
    assert len(PICTURES) >= 12


@EACH_PICTURE
def test_source_author_and_free_licence_are_given(name):
    shows, source, author, licence = listed()[name]
    assert all((shows, source, author))
    assert re.search(r"^(public domain|CC0|Apache-2.0|\[CC BY 2.0\]\(https://\S+\))$", licence)
    assert (source == "`make_drawings.py`") == (name in DRAWINGS)


@EACH_PICTURE
def test_picture_is_readable_of_the_listed_size_and_small(name):
    image = read_image(FOLDER / name)
    height, width = image.shape[:2]
    assert listed()[name][0].endswith(f"{width}x{height}")
    assert max(height, width) <= 768
    assert image.std() > 10  # not blank
    assert (FOLDER / name).stat().st_size < 1_000_000


def test_all_pictures_together_take_a_few_megabytes():
    assert sum((FOLDER / name).stat().st_size for name in PICTURES) < 4_000_000


def test_there_are_colour_grey_and_transparent_ones_of_every_orientation():
    images = [Image.open(FOLDER / name) for name in PICTURES]
    assert {image.mode for image in images} == {"RGB", "L", "RGBA"}
    assert {np.sign(image.width - image.height) for image in images} == {-1, 0, 1}


@pytest.mark.parametrize("name", sorted(DRAWINGS))
def test_drawing_is_what_its_script_draws(name):
    drawn = DRAWINGS[name]()
    with Image.open(FOLDER / name) as kept:
        assert drawn.mode == kept.mode
        assert np.array_equal(np.asarray(drawn), np.asarray(kept))


def test_script_draws_what_is_missing_and_keeps_what_is_there(tmp_path):
    (tmp_path / "star.png").write_text("mine")
    for name in set(DRAWINGS) - {"star.png", "logo_transparent.png"}:
        (tmp_path / name).write_bytes(b"")
    command = [sys.executable, FOLDER / "make_drawings.py", "--output", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (tmp_path / "star.png").read_text() == "mine"
    assert f"{tmp_path}/star.png is there; delete it" in ended.stdout
    assert Image.open(tmp_path / "logo_transparent.png").mode == "RGBA"
    assert not list(tmp_path.glob("*.tmp"))
