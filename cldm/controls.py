"""What a generation is controlled by: maps, each with its ControlNet, its weight and its share of the steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cldm.settings import LIMITS, Limit, checked_number

_WEIGHT = LIMITS["strength"]
_SHARE = Limit(0.0, 1.0, False)
_INDEX = Limit(0, 99, True)


@dataclass(frozen=True, eq=False)
class Control:
    """One control map and how it is used; the outputs of several are summed (arXiv:2302.05543, section 3.4).

    Attributes:
        map: uint8 RGB, (h, w, 3), sides multiples of 64.
        weight: Of this control among others, any as `Settings.strength`, which multiplies it.
        start: Share of the steps that are over before it begins to act.
        end: Share of the steps that are over when it ceases to act.
        model: Which of the loaded model's ControlNets sees the map, counted from 0; by default the one at this
            control's place in the list.

    Raises:
        ValueError: If a number is out of its limits, or the end comes before the start.
    """

    map: np.ndarray
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    model: int | None = None

    def __post_init__(self) -> None:
        limits = {"weight": _WEIGHT, "start": _SHARE, "end": _SHARE}
        limits |= {} if self.model is None else {"model": _INDEX}
        for name, limit in limits.items():
            object.__setattr__(self, name, checked_number(name, getattr(self, name), limit))
        if self.start >= self.end:
            raise ValueError(f"a control must start before it ends, got start {self.start} and end {self.end}")

    def acts_at(self, step: int, steps: int) -> bool:
        """Whether it acts at a step, counted from 0: when all of the step lies between start and end."""
        return step / steps >= self.start and (step + 1) / steps <= self.end


def as_controls(given: np.ndarray | Control | Sequence[Control] | None) -> list[Control]:
    """The controls that `generate` was given: a map alone, one control, several, or none.

    Raises:
        ValueError: If it is something else.
    """
    if given is None:
        return []
    if isinstance(given, Control):
        return [given]
    if isinstance(given, list | tuple) and all(isinstance(control, Control) for control in given):
        return list(given)
    return [Control(given)]
