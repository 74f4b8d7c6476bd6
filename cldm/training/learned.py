"""At which step a control was learnt: the "sudden convergence" of the paper (arXiv:2302.05543, section 3.4 and fig. 4).

A ControlNet's loss hardly falls while it learns, and its images ignore the hint for thousands of steps, until within
some hundred they follow it. In a series of control fidelity this is a step from one level to another.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEAST_RISE = 0.1
"""Of fidelity, in [0, 1]: less is no control that was learnt."""

_LEAST_POINTS = 5
_LEVEL = 3  # validations that a level takes at least to be seen as one
_NOISE = 4  # times the standard deviation: what a rise must exceed
_STILL_RISING = 0.2  # of the rise, within what is taken for the final level: then it is none yet
_TO_DEVIATION = 1.4826 / 2**0.5  # median absolute deviation of differences -> standard deviation of one value


class Learned(NamedTuple):
    """When control was learnt.

    Attributes:
        step: Of the first validation from which on fidelity stays above the middle of both levels.
        after: Step of the validation before it: the control was learnt between the two.
        early: Level of fidelity before.
        late: Level after.
    """

    step: int
    after: int
    early: float
    late: float

    def __str__(self) -> str:
        return (
            f"the control was learnt between steps {self.after} and {self.step}: "
            f"fidelity rose from {self.early:.2f} to {self.late:.2f}"
        )


def learned_at(steps: Sequence[int], fidelity: Sequence[float]) -> Learned | None:
    """Find the step at which control was learnt, if it was.

    The late level is the median of the last third of the series, at least of three validations. The early one is the
    median of what lies before the split that divides the series best into two levels, by least squares. There is a
    rise if it is above `LEAST_RISE` and four times the noise, which the differences from one validation to the next
    tell; and it is over if the last third rises by less than a fifth of it. So it is reported some time after it has
    happened, and a slow rise at its end only. Single validations that fall out of line are passed over.

    Args:
        steps: Of the validations, increasing.
        fidelity: Of the control, one for each.

    Returns:
        None where there are too few validations, no rise, or one that is not over.

    Raises:
        ValueError: If there are not as many steps as values.
    """
    if len(steps) != len(fidelity):
        raise ValueError(f"expected a fidelity for each step, got {len(fidelity)} for {len(steps)} steps")
    values = np.asarray(fidelity, np.float64)
    if len(values) < _LEAST_POINTS or not np.isfinite(values).all():
        return None
    last = values[-max(_LEVEL, len(values) // 3) :]
    early, late = float(np.median(values[: _best_split(values)])), float(np.median(last))
    rise = late - early
    trend = np.polyfit(np.arange(len(last)), last, 1)[0] * (len(last) - 1)
    if rise < max(LEAST_RISE, _NOISE * _noise(values)) or trend > _STILL_RISING * rise:
        return None
    below = np.flatnonzero(_without_outliers(values) < (early + late) / 2)
    place = int(below[-1]) + 1 if len(below) else 0
    if not 1 <= place <= len(values) - _LEVEL:
        return None
    return Learned(int(steps[place]), int(steps[place - 1]), early, late)


def _best_split(values: np.ndarray) -> int:
    """How many values belong to the first of two levels, by the least sum of squares round their means."""
    splits = range(1, len(values))
    return min(splits, key=lambda k: k * values[:k].var() + (len(values) - k) * values[k:].var())


def _noise(values: np.ndarray) -> float:
    """Standard deviation of a single value round its level; one jump, or a slow trend, does not count."""
    differences = np.diff(values)
    return float(_TO_DEVIATION * np.median(np.abs(differences - np.median(differences))))


def _without_outliers(values: np.ndarray) -> np.ndarray:
    """Medians of three neighbours; both ends count twice."""
    padded = np.concatenate([values[:1], values, values[-1:]])
    return np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
