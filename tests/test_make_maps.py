"""The apps' example maps: drawn by their script, of the scene that their prompt names."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cldm.apps import EXAMPLE_PROMPT, PICTURES

MAPS = PICTURES / "maps"


def load_script():
    spec = importlib.util.spec_from_file_location("make_maps", PICTURES / "make_maps.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


SCRIPT = load_script()


def test_they_show_what_the_prompt_says():
    assert SCRIPT.SCENE.prompt == EXAMPLE_PROMPT


@pytest.mark.parametrize("name", sorted(SCRIPT.maps()))
def test_each_is_what_the_script_draws_and_small(name):
    drawn = SCRIPT.maps()[name]
    assert drawn.shape == (128, 128, 3)
    assert np.array_equal(np.asarray(Image.open(MAPS / f"{name}.png")), drawn)
    assert (MAPS / f"{name}.png").stat().st_size < 10_000


def test_there_is_one_for_every_app_and_none_besides():
    apps = {
        path.stem.removeprefix("gradio_").removesuffix("2image") for path in PICTURES.parent.glob("gradio_*2image.py")
    }
    assert {path.stem for path in MAPS.iterdir()} == apps == set(SCRIPT.maps())


def test_the_script_keeps_what_is_there(tmp_path):
    (tmp_path / "canny.png").write_text("mine")
    command = [sys.executable, PICTURES / "make_maps.py", "--output", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "canny.png").read_text() == "mine"
    assert f"{tmp_path}/canny.png is there; delete it" in ended.stdout
    assert len(list(tmp_path.glob("*.png"))) == 10
