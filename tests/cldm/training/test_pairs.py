"""The pairs that a run is judged by: which they are, and what is computed of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

import runs
from cldm.training import Settings
from cldm.training.pairs import encode_pairs, hold_out, without

SETTINGS = Settings(device="cpu", validation_pairs=4)


def test_what_is_held_out_is_not_trained_on_and_is_the_same_in_every_run():
    held_out = hold_out(range(1000), SETTINGS)
    assert len(held_out) == 4
    assert sorted([*without(range(1000), held_out), *held_out]) == list(range(1000))
    assert hold_out(range(1000), replace(SETTINGS, seed=5)) == held_out
    assert set(held_out) < set(hold_out(range(1000), replace(SETTINGS, validation_pairs=8)))


def test_at_most_one_in_twenty_is_held_out():
    assert len(hold_out(range(60), SETTINGS)) == 3
    with pytest.warns(UserWarning, match=r"a dataset of 19 is too small to hold anything out.*validation=FOLDER"):
        assert hold_out(range(19), SETTINGS) == []


def test_nothing_is_held_out_of_a_dataset_that_is_read_in_its_own_order():
    class Shards(IterableDataset):
        def __len__(self):
            return 1000

        def __iter__(self):
            return iter(range(1000))

    with pytest.warns(UserWarning, match=r"a dataset without places gives no way to hold anything out"):
        assert hold_out(Shards(), SETTINGS) == []


@pytest.mark.parametrize("changes", [{"validation": "./others"}, {"validation_freq": 0}])
def test_with_other_pairs_or_no_validations_nothing_is_held_out(changes):
    assert hold_out(range(100), replace(SETTINGS, **changes)) == []
    assert without(samples := range(100), []) is samples


def test_a_pair_has_what_the_encoders_give():
    model, samples = runs.control_ldm(), runs.items(9)
    pairs = encode_pairs(model, samples, SETTINGS)
    for pair, sample in zip(pairs, [samples[0], samples[2], samples[5], samples[8]], strict=True):
        posterior = model.posterior_of({"jpg": torch.tensor(sample["jpg"])[None]})
        assert torch.equal(pair.moments, torch.cat([posterior.mean, posterior.logvar], dim=1))
        assert torch.equal(pair.context, model.get_learned_conditioning([sample["txt"]]))
        assert torch.equal(pair.no_context, model.get_learned_conditioning([""]))
        assert torch.equal(pair.hint[0].permute(1, 2, 0), torch.tensor(sample["hint"]))
        np.testing.assert_allclose(pair.target / 127.5 - 1, sample["jpg"], atol=1e-6)


def test_random_numbers_are_not_used_up_by_a_dataset_that_draws_some():
    class Drawing(list):
        def __getitem__(self, place):
            np.random.rand(3), torch.rand(3)  # noqa: NPY002
            return super().__getitem__(place)

    torch.manual_seed(1)
    expected = torch.rand(3)
    model, samples = runs.control_ldm(), Drawing(runs.items(2))
    torch.manual_seed(1)
    encode_pairs(model, samples, SETTINGS)
    assert torch.equal(torch.rand(3), expected)


def test_without_validations_nothing_is_encoded():
    assert encode_pairs(None, runs.items(2), replace(SETTINGS, validation_freq=0)) == []
    assert encode_pairs(None, [], SETTINGS) == []
