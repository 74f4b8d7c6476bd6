"""What an app is, as data: the ten apps beside the table that they are to follow."""

from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest

from annotator.manifest import DETECTOR_FILES, MODEL_FILES
from cldm.apps import (
    EXAMPLE_PROMPT,
    Demo,
    Drawing,
    Slider,
    black_and_white,
    invert,
    reverse_channels,
    thicken_and_invert,
    unchanged,
)

NEAREST, LINEAR = cv2.INTER_NEAREST, cv2.INTER_LINEAR
# control, detector's file, detected at, resize back, network sees, shown, own sliders (lowest, highest, value)
TABLE = {
    "canny": ("canny", "", None, LINEAR, unchanged, invert, [(1, 255, 100), (1, 255, 200)]),
    "hough": ("mlsd", "mlsd", 512, NEAREST, unchanged, thicken_and_invert, [(0.01, 2, 0.1), (0.01, 20, 0.1)]),
    "hed": ("hed", "hed", 512, LINEAR, unchanged, unchanged, []),
    "scribble": ("scribble", "", None, LINEAR, black_and_white, invert, []),
    "scribble_interactive": ("scribble", "", None, LINEAR, black_and_white, invert, []),
    "fake_scribble": ("scribble", "hed", 512, LINEAR, black_and_white, invert, []),
    "pose": ("openpose", "openpose", 512, NEAREST, unchanged, unchanged, []),
    "seg": ("seg", "uniformer", 512, NEAREST, unchanged, unchanged, []),
    "depth": ("depth", "midas", 384, LINEAR, unchanged, unchanged, []),
    "normal": ("normal", "midas", 384, LINEAR, reverse_channels, unchanged, [(0, 1, 0.4)]),
}
EACH_APP = pytest.mark.parametrize("name", TABLE)


def demo_of(name: str) -> Demo:
    return import_module(f"gradio_{name}2image").demo


@EACH_APP
def test_the_app_is_as_the_table_has_it(name):
    demo = demo_of(name)
    sliders = [(option.minimum, option.maximum, option.value) for option in demo.options]
    described = (demo.control, demo.weights, demo.detect_at, demo.resize_back, demo.network, demo.preview, sliders)
    assert described == TABLE[name]
    assert demo.name == name
    assert demo.canvas == (name == "scribble_interactive")
    assert demo.on_black == (name not in ("seg", "depth", "normal"))


@EACH_APP
def test_there_are_files_to_get_and_examples_to_try(name):
    demo = demo_of(name)
    assert f"control_sd15_{demo.control}" in MODEL_FILES
    assert demo.weights in {"", *DETECTOR_FILES}
    first, *_ = examples = demo.examples()
    assert first == (demo.example_map, EXAMPLE_PROMPT, True)
    assert len(examples) == (1 if demo.canvas else 2), "a picture that is named must be there"


def test_there_is_no_app_beside_the_ten():
    scripts = Path(__file__).parents[2].glob("gradio_*2image.py")
    assert {script.stem.removeprefix("gradio_").removesuffix("2image") for script in scripts} == set(TABLE)


def test_what_maps_become():
    line = np.zeros((5, 5, 3), np.uint8)
    line[2, 2] = 255
    wide = np.full((5, 5, 3), 255, np.uint8)
    wide[1:4, 1:4] = 0
    assert np.array_equal(thicken_and_invert(line), wide)
    assert np.array_equal(invert(line), 255 - line)
    assert unchanged(line) is line
    levels = np.array([[[0, 127, 128]]], np.uint8)
    assert black_and_white(levels).tolist() == [[[0, 0, 255]]]
    assert reverse_channels(levels).tolist() == [[[128, 127, 0]]]


@EACH_APP
def test_what_the_network_sees_is_stable_or_undone(name):
    """So that a map that was saved as the network saw it can be given again."""
    network = demo_of(name).network
    once = network(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    assert np.array_equal(network(network(once)), once)


def test_options_have_names_for_programs():
    assert Slider("Canny low threshold", 1, 255, 100).name == "canny_low_threshold"
    assert Slider("M-LSD value threshold", 0.01, 2, 0.1, 0.01).name == "m_lsd_value_threshold"
    assert not Slider("Value", 0.01, 2, 0.1, 0.01).limit.whole


def layer(*points: tuple[int, int], alpha: int = 255, colour: int = 0) -> np.ndarray:
    drawn = np.zeros((8, 8, 4), np.uint8)
    for point in points:
        drawn[point] = (colour, colour, colour, alpha)
    return drawn


def test_strokes_count_whatever_their_colour_on_all_layers():
    drawing = Drawing(Drawing.blank(8, 8), (layer((1, 1)), layer((2, 5), colour=255), layer((6, 6), alpha=90)))
    expected = np.zeros((8, 8), np.uint8)
    expected[1, 1] = expected[2, 5] = 255
    expected[6, 6] = 90
    assert np.array_equal(drawing.strokes(), expected)


def test_layers_of_other_kinds_and_sizes():
    opaque = np.zeros((16, 16, 3), np.uint8)
    opaque[4:6, 4:6] = 255
    assert np.argwhere(Drawing(None, (layer((1, 1)), opaque)).strokes()).tolist() == [[1, 1], [2, 2]]
    assert Drawing(Drawing.blank(4, 2)).strokes() is None
    assert Drawing.blank(4, 2).shape == (2, 4, 3)
