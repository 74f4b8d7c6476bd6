"""A model judged on a pair: what fidelity is measured, and that the same is found every time."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

import runs
from cldm.fidelity import shape_fidelity
from cldm.training import Settings
from cldm.training.judging import MEASURES, choose_measure, judge, shown
from cldm.training.pairs import Pair, encode_pairs
from ldm.models.diffusion.draws import Draws


@pytest.fixture(scope="module")
def model():
    return runs.control_ldm().eval()


@pytest.fixture(scope="module")
def pairs(model) -> list[Pair]:
    return encode_pairs(model, runs.items(2), Settings(device="cpu"))


def judged(model, pair: Pair, number: int = 0):
    return judge(model, pair, number, MEASURES["shape"], (2, 2.0), nullcontext())


def test_the_loss_is_the_mean_of_the_errors_at_eight_time_steps(model, pairs, monkeypatch):
    seen = []
    monkeypatch.setattr(model, "errors", lambda z, cond, t, noise: seen.append((z, t, noise)) or t.float())
    assert judged(model, pairs[1], 1).loss == np.mean([62, 187, 312, 437, 562, 687, 812, 937])
    assert [t.item() for _, t, _ in seen] == [62, 187, 312, 437, 562, 687, 812, 937]
    mean, logvar = pairs[1].moments.chunk(2, dim=1)
    draws = Draws(0, 1, [1])
    torch.testing.assert_close(seen[0][0], 0.18215 * (mean + (logvar / 2).exp() * draws.posterior(mean)))
    assert torch.equal(seen[0][2], draws.noise(mean))


def test_the_loss_has_no_weights_and_no_offset_so_that_settings_can_be_compared(model, pairs, monkeypatch):
    plain = judged(model, pairs[0]).loss
    monkeypatch.setattr(model, "min_snr_gamma", 5.0)
    monkeypatch.setattr(model, "noise_offset", 0.5)
    assert judged(model, pairs[0]).loss == plain


def test_it_is_the_same_every_time_and_uses_no_random_numbers(model, pairs):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = judged(model, pairs[0])
    assert torch.equal(torch.rand(3), expected)
    again = judged(model, pairs[0])
    assert (first.loss, first.fidelity) == (again.loss, again.fidelity)
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(judged(model, pairs[0], 1).image, first.image), "each pair has noise of its own"


def test_the_fidelity_is_that_of_the_sample(model, pairs):
    result = judged(model, pairs[0])
    assert result.image.shape == pairs[0].target.shape
    assert result.fidelity == shape_fidelity(result.image, pairs[0].target)


def test_shapes_are_measured_where_all_targets_are_plain_shapes(pairs):
    assert choose_measure("auto", pairs) is MEASURES["shape"]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    mixed = [pairs[0], Pair(pairs[0].hint, noise, *[pairs[0].moments] * 3)]
    assert choose_measure("auto", mixed) is MEASURES["edges"]
    assert choose_measure("hint_edges", mixed) is MEASURES["hint_edges"]
    with pytest.raises(ValueError, match="1 of the 2 validation pairs are none; use fidelity=edges"):
        choose_measure("shape", mixed)


def test_the_targets_own_image_has_all_edges(pairs):
    for name in ("edges", "shape"):
        assert MEASURES[name].of(pairs[0].target, pairs[0]) == 1
    assert MEASURES["hint_edges"].of(shown(pairs[0].hint), pairs[0]) == 1


def test_a_hint_of_any_number_of_channels_can_be_shown():
    hint = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 8, 8)
    assert (shown(hint) == 128).all()
    assert shown(hint).shape == (8, 8, 3)
