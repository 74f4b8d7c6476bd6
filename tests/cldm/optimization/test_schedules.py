"""Learning rates at known steps."""

import pytest

from cldm.optimization.schedules import share


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("constant", 0, 0.25),
        ("constant", 3, 1.0),
        ("constant", 4, 1.0),
        ("constant", 10**6, 1.0),
        ("cosine", 1, 0.5),
        ("cosine", 4, 1.0),
        ("cosine", 14, (1 + 2**-0.5) / 2),  # a quarter of the way
        ("cosine", 24, 0.5),
        ("cosine", 44, 0.0),
        ("linear", 3, 1.0),
        ("linear", 4, 1.0),
        ("linear", 14, 0.75),
        ("linear", 44, 0.0),
        ("linear", 50, 0.0),
    ],
)
def test_with_four_steps_of_warm_up_and_44_in_all(schedule, step, expected):
    assert share(schedule, step, warmup=4, total=44) == pytest.approx(expected, abs=1e-12)


def test_without_warm_up_it_starts_whole():
    assert [share(s, 0, 0, 10) for s in ("constant", "cosine", "linear")] == [1, 1, 1]
