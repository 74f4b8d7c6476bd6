"""The control maps that the miniature's ControlNet is trained on."""

import numpy as np
import pytest

from cldm.shapes import sample_scene
from training.mini import control
from training.mini.control import hints, map_of
from training.mini.maps import MAPS


def test_every_kind_is_drawn_and_edges_most_often(monkeypatch):
    drawn = []
    monkeypatch.setattr(control, "MAPS", {kind: lambda scene, rng, kind=kind: drawn.append(kind) for kind in MAPS})
    rng = np.random.default_rng(0)
    for _ in range(4000):
        map_of(sample_scene(rng), rng)
    shares = {kind: drawn.count(kind) / len(drawn) for kind in MAPS}
    assert max(shares, key=shares.get) == "canny"
    assert shares["canny"] == pytest.approx(0.28, abs=0.03)
    assert min(shares.values()) > 0.05


def test_hints_are_channels_first_from_0_to_1():
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[1, 2] = (255, 0, 51)
    hint = hints([pixels, pixels])
    assert hint.shape == (2, 3, 4, 6)
    assert hint[1, :, 1, 2].tolist() == pytest.approx([1, 0, 0.2])
