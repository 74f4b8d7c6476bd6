"""The measures of the miniature, and the shipped miniature by them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cldm.model import load_model
from cldm.shapes import held_out
from cldm.weights.reading import read_weights
from training.mini.evaluate import generate, held_out_scenes, mean_colour_errors, mean_iou, measure
from training.mini.maps import MAPS

MODELS = Path(__file__).resolve().parents[3] / "models"
FILES = (MODELS / "sd_mini.safetensors", MODELS / "control_mini.safetensors")


@pytest.fixture(scope="module")
def model():
    return load_model(MODELS / "cldm_mini.yaml", *FILES, device="cpu")


def test_the_scenes_themselves_are_measured_as_right():
    scenes = held_out_scenes(40)
    images = [scene.image(128) for scene in scenes]
    assert mean_iou(images, scenes) > 0.995
    assert max(mean_colour_errors(images, scenes)) < 0.5


def test_wrong_shapes_and_colours_are_measured_as_wrong():
    scenes = held_out_scenes(40)
    others = [scene.image(128) for scene in [*scenes[1:], scenes[0]]]
    assert mean_iou(others, scenes) < 0.5
    assert min(mean_colour_errors(others, scenes)) > 30


def test_evaluation_uses_held_out_combinations_alone():
    assert all(held_out(scene.prompt) for scene in held_out_scenes(100))


def test_shipped_files_are_small_and_in_half_precision():
    assert sum(file.stat().st_size for file in FILES) < 60e6
    for file in FILES:
        weights = read_weights(file)
        halves = [name for name, tensor in weights.items() if tensor.dtype == torch.float16]
        assert all("." not in name for name in weights.keys() - set(halves)), "only the schedule is in full precision"


@pytest.mark.parametrize("kind", MAPS)
def test_the_shipped_control_leads_to_its_maps_and_strength_0_does_not(model, kind):
    scenes = held_out_scenes(6, kind=kind)
    controlled = generate(model, scenes, kind, steps=10)
    assert mean_iou(controlled, scenes) > 0.7
    assert max(mean_colour_errors(controlled, scenes)) < 25
    assert mean_iou(generate(model, scenes, kind, strength=0.0, steps=10), scenes) < 0.6


def test_the_same_seed_gives_the_same_images(model):
    scenes = held_out_scenes(2)
    first, second = (generate(model, scenes, "canny", steps=4) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def figures(model):
    return measure(model, count=40)[0]


@pytest.mark.slow
def test_the_shipped_base_reaches_its_goals(figures):
    assert figures.psnr >= 32
    assert figures.colour_error <= 12
    assert figures.background_error <= 12
    assert figures.iou_without < 0.5


@pytest.mark.slow
def test_the_shipped_control_follows_maps_of_every_kind(figures):
    assert set(figures.iou) == set(MAPS)
    assert figures.iou["canny"] >= 0.93
    assert min(figures.iou.values()) >= 0.80
