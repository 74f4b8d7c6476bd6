"""The bench of a training step: what it makes of its figures."""

from dataclasses import replace

import pytest

from bench.train_step import Measured, better, compare, main
from bench.training_sides import Example

STEP = Measured(10.0, 20.0, 9.0, 2.0, [1.0, 0.5])


def test_of_several_turns_the_fastest_counts_and_the_highest_peak():
    slow, fast = replace(STEP, seconds=12.0, peak=9.5), replace(STEP, cpu_seconds=19.0)
    assert better(None, slow) == slow
    assert better(slow, fast) == better(fast, slow) == replace(STEP, cpu_seconds=19.0, peak=9.5)


def test_goals_that_are_missed_are_named_with_their_figures(capsys):
    theirs = Measured(20.0, 40.0, 12.0, 4.0, [1.0, 0.5])
    assert compare("cache", 512, STEP, theirs) == []
    assert "| 512 | cache | 10.0 / 20.0 | 0.50 | 0.50 | 9.00 / 12.00 | 0.75 |" in capsys.readouterr().out
    worse = replace(STEP, seconds=13.0, losses=[1.0, 0.6])
    assert compare("cache", 512, worse, theirs) == [
        "cache, 512 pixels: seconds 0.6500, expected at most 0.62",
        "cache, 512 pixels: loss 0.2000, expected at most 0.0001",
    ]


def test_the_example_runs_as_its_flags_say(monkeypatch):
    asked = []
    monkeypatch.setattr("bench.train_step.compute", lambda row, side, example: asked.append(example) or STEP)
    command = ["train_step", "--computed", "--rows", "cache", "--sides", "512"]
    for flags in ([], ["--fused"], ["--keep-freed-memory", "--set-grads-to-none"]):
        monkeypatch.setattr("sys.argv", [*command, *flags])
        with pytest.raises(SystemExit, match="cache, 512 pixels: seconds"):
            main()
    assert asked[::2] == [
        Example(),
        Example(fused=True),
        Example(keep_freed_memory=True, keep_gradients=False),
    ]


def test_rows_of_the_example_are_no_rows_of_ours(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train_step", "--computed", "--rows", "diffusers"])
    with pytest.raises(SystemExit):
        main()
    assert "no such rows: diffusers" in capsys.readouterr().err
