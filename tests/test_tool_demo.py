"""The demo's parts; the whole of it runs in CI by `make demo`."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cldm.shapes import held_out

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("tool_demo", ROOT / "tool_demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_run_overwrites_another(demo, tmp_path):
    assert [demo.new_folder(tmp_path).name for _ in range(3)] == ["run1", "run2", "run3"]


def test_hints_are_circles_of_held_out_colours(demo):
    scenes = demo.held_out_circles(30)
    assert {scene.shape for scene in scenes} == {"circle"}
    assert all(held_out(scene.prompt) for scene in scenes)
    assert len({scene.prompt for scene in scenes}) == 30


def test_losses_are_read_from_the_log(demo, tmp_path):
    log = tmp_path / "lightning_logs/version_0/metrics.csv"
    log.parent.mkdir(parents=True)
    log.write_text("epoch,step,train/loss_simple\n0,9,0.5\n0,,\n0,19,0.25\n")
    assert demo.losses(tmp_path) == [(10, 0.5), (20, 0.25)]


def test_the_picture_has_a_row_for_each_name(demo, tmp_path):
    purple = np.uint8([77, 0, 99])  # no grey, as the names are
    image = np.broadcast_to(purple, (demo.SIZE, demo.SIZE, 3))
    demo.picture({"hint": [image] * 3, "target": [image] * 3}, tmp_path / "a.png")
    shown = np.array(Image.open(tmp_path / "a.png"))
    assert shown.shape[0] == 2 * (demo.SIZE + 4)
    assert (shown == purple).all(axis=2).sum() == 6 * demo.SIZE**2


def test_saved_steps_are_those_that_are_judged(demo):
    for course in (demo.Course(), demo.SHORT):
        every = course.steps // course.points
        assert every * course.points == course.steps
        assert course.batch_size <= course.pairs
