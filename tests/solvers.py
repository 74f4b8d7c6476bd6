"""A solver's error where the exact answer is known: on normal data, in float64, at even steps of lambda."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldm.models.diffusion.sampler import Look, Path

MEAN, STD = 1.5, 0.4
LAMBDAS = (-3.0, 3.0)


def error_of(solver: Callable[[Look, Tensor, Sequence[float]], Path], steps: int) -> float:
    """Distance from the exact end of a path.

    Along the exact one, (x - alpha mean) / sqrt(alpha^2 std^2 + sigma^2) of x stays the same.
    """
    first, last = LAMBDAS
    lambdas = [first + (last - first) * i / steps for i in range(steps + 1)]
    abars = [1 / (1 + math.exp(-2 * lambda_)) for lambda_ in lambdas]

    def spread(abar: float) -> float:
        return math.sqrt(abar * STD**2 + 1 - abar)

    def look(x: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        abar = abars[i]
        away = (x - math.sqrt(abar) * MEAN) / spread(abar) ** 2
        return x, math.sqrt(1 - abar) * away, MEAN + math.sqrt(abar) * STD**2 * away

    kept = torch.linspace(-2, 2, 9, dtype=torch.float64)
    *_, (x, _) = solver(look, math.sqrt(abars[0]) * MEAN + spread(abars[0]) * kept, abars)
    return (x - math.sqrt(abars[-1]) * MEAN - spread(abars[-1]) * kept).abs().max().item()
