"""The bench of samplers: when half the steps are not as good."""

import re

import numpy as np

from bench.samplers import STEPS, Quality, missed, quality
from cldm.shapes import sample_scene


def rows(**changes: Quality) -> dict[tuple[str, int], Quality]:
    """Every sampler better with more steps, DDIM twice as far off as the others."""
    found = {}
    for steps in STEPS:
        for name, factor in (("ddim", 2), ("dpm++", 1), ("unipc", 1)):
            found[name, steps] = changes.get(f"{name} {steps}", Quality(0.9, 5, 5, factor * 10 / steps))
    return found


def test_the_same_in_half_the_steps_is_good_enough():
    assert missed(rows()) == []


def test_farther_off_or_a_lower_iou_is_said():
    worse = {"dpm++ 10": Quality(0.9, 5, 5, 2.0), "unipc 20": Quality(0.894, 5, 5, 0.5)}
    far, low = missed(rows(**worse))
    assert re.match(r"dpm\+\+ in 10 steps .* DDIM in 20", far)
    assert re.match(r"unipc in 20 steps .* DDIM in 40", low)


def test_a_perfect_image_is_at_no_distance():
    scene = sample_scene(np.random.default_rng(0))
    image = scene.image(128)
    found = quality([image], [scene], [image])
    assert found.iou > 0.99
    assert (found.distance, round(found.colour_error)) == (0, 0)
