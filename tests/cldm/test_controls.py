"""Controls: when they act, and what is refused."""

import numpy as np
import pytest

from cldm.controls import Control, as_controls

MAP = np.zeros((64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("start", "end", "acting"),
    [
        (0.0, 1.0, [0, 1, 2, 3, 4]),
        (0.0, 0.5, [0, 1]),
        (0.5, 1.0, [3, 4]),
        (0.2, 0.4, [1]),
        (0.4, 0.6, [2]),
        (0.3, 0.55, []),
    ],
)
def test_it_acts_in_the_steps_that_lie_wholly_between_start_and_end(start, end, acting):
    control = Control(MAP, start=start, end=end)
    assert [step for step in range(5) if control.acts_at(step, 5)] == acting
    theirs = [step for step in range(5) if not (step / 5 < start or (step + 1) / 5 > end)]  # diffusers' rule
    assert acting == theirs


def test_a_map_alone_is_one_control_and_none_is_none():
    assert as_controls(None) == []
    (control,) = as_controls(MAP)
    assert control.map is MAP
    assert (control.weight, control.start, control.end, control.model) == (1.0, 0.0, 1.0, None)
    assert as_controls(control) == as_controls([control]) == as_controls((control,)) == [control]


def test_weights_may_be_any_and_numpys_numbers_become_pythons():
    assert Control(MAP, weight=-2.5).weight == -2.5
    control = Control(MAP, weight=np.float32(0.5), end=np.float64(0.5), model=np.int64(1))
    assert [type(value) for value in (control.weight, control.end, control.model)] == [float, float, int]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weight": float("inf")}, "weight must be a number from -1000 to 1000, got inf"),
        ({"start": -0.1}, "start must be a number from 0 to 1"),
        ({"end": 1.1}, "end must be a number from 0 to 1"),
        ({"start": 0.5, "end": 0.5}, "must start before it ends, got start 0.5 and end 0.5"),
        ({"model": -1}, "model must be a whole number from 0"),
    ],
)
def test_what_is_out_of_limits_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Control(MAP, **wrong)
