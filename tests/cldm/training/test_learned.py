"""The step at which control was learnt, in series whose answer is known."""

import numpy as np
import pytest

from cldm.training.learned import Learned, learned_at

STEPS = list(range(0, 6000, 100))


def jump(at: int, sigma: float = 0.0, seed: int = 0, low: float = 0.3, high: float = 0.8) -> np.ndarray:
    """A series that jumps at its `at`-th value."""
    noise = np.random.default_rng(seed).normal(0, sigma, len(STEPS))
    return np.where(np.arange(len(STEPS)) < at, low, high) + noise


@pytest.mark.parametrize("at", [1, 2, 17, 40])
def test_a_jump_is_found_where_it_is(at):
    assert learned_at(STEPS, jump(at)) == Learned(100 * at, 100 * (at - 1), pytest.approx(0.3), pytest.approx(0.8))


@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.05])
def test_noise_does_not_move_it(sigma):
    found = [learned_at(STEPS, jump(20, sigma, seed)) for seed in range(50)]
    assert [learned.step for learned in found] == [2000] * 50


def test_nothing_is_found_where_nothing_rises():
    assert learned_at(STEPS, np.full(len(STEPS), 0.3)) is None
    assert learned_at(STEPS, jump(20, low=0.8, high=0.3)) is None, "a fall"
    assert learned_at(STEPS, jump(20, low=0.3, high=0.39)) is None, "a rise that is none"


def test_noise_alone_is_hardly_ever_taken_for_it_at_any_time():
    alarms = 0
    for seed in range(100):
        values = 0.3 + np.random.default_rng(seed).normal(0, 0.03, 40)
        alarms += any(learned_at(STEPS[:n], values[:n]) for n in range(len(values) + 1))
    assert alarms <= 2


def test_a_slow_rise_is_found_at_its_end_and_in_its_middle():
    values = np.concatenate([np.linspace(0.1, 0.9, 40), np.full(20, 0.9)])
    found = [learned_at(STEPS[:n], values[:n]) for n in range(len(values) + 1)]
    assert not any(found[:41]), "it is still rising"
    assert 1500 < found[60].step < 3000


def test_it_is_reported_once_it_has_stayed_for_three_validations():
    values = jump(5)
    found = [n for n in range(len(STEPS) + 1) if learned_at(STEPS[:n], values[:n])]
    assert found == list(range(8, len(STEPS) + 1))


def test_a_rise_that_falls_back_is_none_and_one_value_out_of_line_is_passed_over():
    values = jump(20)
    values[25:] = 0.3
    assert learned_at(STEPS, values) is None
    values = jump(20)
    values[5], values[30] = 0.9, 0.1
    assert learned_at(STEPS, values).step == 2000


def test_too_few_values_or_such_as_are_no_numbers_say_nothing():
    assert learned_at(STEPS[:4], [0.1, 0.9, 0.9, 0.9]) is None
    assert learned_at(STEPS[:6], [0.1, 0.9, 0.9, float("nan"), 0.9, 0.9]) is None


def test_it_says_between_which_steps_in_words():
    learned = learned_at(STEPS, jump(20))
    assert str(learned) == "the control was learnt between steps 1900 and 2000: fidelity rose from 0.30 to 0.80"


def test_steps_and_values_of_different_number_are_refused():
    with pytest.raises(ValueError, match="expected a fidelity for each step, got 2 for 3 steps"):
        learned_at([0, 1, 2], [0.1, 0.2])
