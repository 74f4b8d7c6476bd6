"""The control maps that the miniature's ControlNet is trained on."""

import numpy as np
import pytest

from cldm.shapes import sample_scene
from training.mini import control
from training.mini.control import border_weights, hints, map_of
from training.mini.maps import MAPS


def test_every_kind_is_drawn_and_edges_most_often(monkeypatch):
    drawn = []
    monkeypatch.setattr(control, "MAPS", {kind: lambda scene, rng, kind=kind: drawn.append(kind) for kind in MAPS})
    rng = np.random.default_rng(0)
    for _ in range(4000):
        map_of(sample_scene(rng), rng)
    shares = {kind: drawn.count(kind) / len(drawn) for kind in MAPS}
    assert sorted(shares, key=shares.get, reverse=True)[:2] == ["canny", "pose"]
    assert shares["canny"] == pytest.approx(0.4, abs=0.03)
    assert min(shares.values()) > 0.04


def test_the_loss_weighs_most_where_the_border_passes():
    scenes = [sample_scene(np.random.default_rng(seed)) for seed in range(3)]
    weights = border_weights(scenes, 16)
    assert weights.shape == (3, 1, 16, 16)
    assert weights.mean((1, 2, 3)).tolist() == pytest.approx([1, 1, 1])
    for scene, own in zip(scenes, weights[:, 0].numpy(), strict=True):
        mask = scene.mask(128).reshape(16, 8, 16, 8)
        crossed = (mask.max((1, 3)) > 0) & (mask.min((1, 3)) < 1)
        assert np.all(own[crossed] == pytest.approx(4 * own[~crossed].max()))
        assert np.ptp(own[~crossed]) == 0


def test_hints_are_channels_first_from_0_to_1():
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[1, 2] = (255, 0, 51)
    hint = hints([pixels, pixels])
    assert hint.shape == (2, 3, 4, 6)
    assert hint[1, :, 1, 2].tolist() == pytest.approx([1, 0, 0.2])
