"""The miniature's training loop: an interrupted run ends as one that was not."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from training.mini.loop import Plan, hash_of, rate, train

PLAN = Plan("part", steps=12, learning_rate=0.05, warmup=3)


class Interrupted(Exception):
    pass


def run(work, stop_before=None, plan=PLAN, based_on=""):
    """Fit a line to noisy points; both numpy's and torch's chance are used."""
    torch.manual_seed(0)
    network = nn.Linear(2, 1)

    def loss_of(step, rng):
        if step == stop_before:
            raise Interrupted
        x = torch.from_numpy(rng.standard_normal((8, 2)).astype(np.float32)) + 0.1 * torch.randn(8, 2)
        return (network(x) - x.sum(1, keepdim=True)).square().mean()

    def check(average):
        return {"weight": average.weight[0, 0].item()}

    return train(plan, network, loss_of, work, check, check_steps=4, based_on=based_on)


def test_interrupted_and_resumed_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("training.mini.loop.SAVE_SECONDS", -1)
    whole = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", stop_before=5)
    resumed = run(tmp_path / "parts")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_finished_run_is_only_read(tmp_path):
    finished = run(tmp_path)
    again = run(tmp_path, stop_before=0)
    assert torch.equal(finished.weight, again.weight)


def test_it_learns(tmp_path):
    plan = Plan("part", steps=300, learning_rate=0.05, warmup=3)
    assert run(tmp_path, plan=plan).weight.detach().numpy() == pytest.approx(np.ones((1, 2)), abs=0.05)


def test_another_plan_does_not_continue_a_run(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match="move it away to start anew"):
        run(tmp_path, plan=Plan("part", steps=24, learning_rate=0.05))


def test_a_state_on_other_parts_is_not_gone_on_from(tmp_path):
    latents, part = torch.zeros(2, 4), nn.Linear(2, 1)
    run(tmp_path, based_on=hash_of(latents, part))
    run(tmp_path, stop_before=0, based_on=hash_of(latents, part))
    part.bias.data += 1
    for other in (hash_of(latents, part), hash_of(latents + 1, part), ""):
        with pytest.raises(ValueError, match=r"part\.pt was made on other parts.*move it away"):
            run(tmp_path, based_on=other)


def test_the_rate_warms_up_and_falls_to_nothing():
    rates = [rate(Plan("part", steps=1000, learning_rate=2.0, warmup=100), step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02, rel=1e-3)
    assert max(rates) == pytest.approx(2 * 0.5 * (1 + math.cos(math.pi * 0.099)), rel=1e-2)
    assert rates[-1] < 1e-4
    assert rates[99:] == sorted(rates[99:], reverse=True)


def test_the_log_has_what_was_checked(tmp_path):
    run(tmp_path)
    assert "step=12" in (tmp_path / "part.csv").read_text()
    assert "weight=" in (tmp_path / "part.csv").read_text()
