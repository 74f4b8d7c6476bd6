"""The bench of a training step: what it makes of its figures."""

from dataclasses import replace

from bench.train_step import Measured, better, compare

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
