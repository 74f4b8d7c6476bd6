"""DPM-Solver++ (2M), a multistep solver of second order in the clean latent (Lu et al., arXiv:2211.01095).

Time steps are spread over the schedule from its last to its first, see `spread_timesteps`: they start where a latent is
closest to pure noise. The last step is of first order, since extrapolating over it overshoots where there are few. In
diffusers' words: final_sigmas_type "sigma_min", lower_order_final and euler_at_final.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ldm.models.diffusion.sampler import Look, Path, Sampler


class Level(NamedTuple):
    """A noise level: x = alpha z + sigma eps; lambda is the logarithm of alpha / sigma."""

    alpha: float
    sigma: float
    lambda_: float


def noise_level(abar: float) -> Level:
    """The level at which the cumulative product of (1 - beta) is `abar`, above 0 and below 1."""
    return Level(math.sqrt(abar), math.sqrt(1 - abar), (math.log(abar) - math.log1p(-abar)) / 2)


def spread_timesteps(steps: int, abars: Tensor) -> list[int]:
    """Time steps from the last to 0, falling: `steps` + 1 of them, even in the mean of time and lambda.

    Even in time alone, as DDIM's, the last steps are by far the longest in lambda, and they take most of what a second
    order gains; even in lambda alone, few are left for the large shapes at the beginning.

    Args:
        steps: Number of steps.
        abars: The schedule's cumulative products of (1 - beta), falling, (num_timesteps,).

    Raises:
        ValueError: If `steps` is not between 1 and the number of time steps - 1.
    """
    last = len(abars) - 1
    if not 1 <= steps <= last:
        raise ValueError(f"steps must be between 1 and {last}, got {steps}")
    abar = abars.cpu().double().numpy()
    lambdas = (np.log(abar) - np.log1p(-abar)) / 2
    places = np.arange(last + 1) / last + (lambdas[0] - lambdas) / (lambdas[0] - lambdas[-1])  # from 0 to 2
    nearest = [int(np.abs(places - place).argmin()) for place in np.linspace(0, 2, steps + 1)]
    for i in range(1, steps + 1):  # no two the same, where they are many
        nearest[i] = max(nearest[i], nearest[i - 1] + 1)
    return nearest[::-1]


def extrapolated(z: Tensor, before: tuple[Level, Tensor], s: Level, t: Level) -> Tensor:
    """The clean latent halfway from level `s` to `t`, along a line through the last two (D of algorithm 2).

    Args:
        z: At `s`.
        before: The level before `s`, and the clean latent there.
        s: Level of the step's start.
        t: Level of its end.
    """
    r = (s.lambda_ - before[0].lambda_) / (t.lambda_ - s.lambda_)
    return z + (z - before[1]) / (2 * r)


def dpm_solver_step(x: Tensor, z: Tensor, s: Level, t: Level) -> Tensor:
    """Move a noisy latent from level `s` to `t` as if the clean one were `z` all the way (from proposition 4.1)."""
    return t.sigma / s.sigma * x - t.alpha * math.expm1(s.lambda_ - t.lambda_) * z


def dpm_solver_2m(look: Look, x: Tensor, abars: Sequence[float]) -> Path:
    """Lead noise to the data, algorithm 2 with a last step of first order; see `Sampler.solve`."""
    levels = [noise_level(abar) for abar in abars]
    before = None
    for i, (s, t) in enumerate(pairwise(levels)):
        x, _, z = look(x, i)
        first_order = before is None or t is levels[-1]
        x = dpm_solver_step(x, z if first_order else extrapolated(z, before, s, t), s, t)
        before = s, z
        yield x, z


def check_no_eta(name: str, eta: float) -> None:
    """Check that a sampler that adds no noise on the way is not asked to.

    Raises:
        ValueError: If it is.
    """
    if eta != 0:
        raise ValueError(f"eta must be 0 with {name}, which adds no noise on the way, got {eta}; DDIM takes others")


class DPMSolverSampler(Sampler):
    """Draws latents from a model by DPM-Solver++ (2M); `sample` is the samplers' common one.

    Args:
        model: Has `apply_model(x, t, cond)`, `parameterization` and `alphas_cumprod`.
    """

    name = "DPM-Solver++"

    def timesteps(self, steps: int) -> list[int]:
        """See `spread_timesteps`."""
        return spread_timesteps(steps, self.model.alphas_cumprod)

    def solve(self, look: Look, x: Tensor, abars: Tensor, eta: float, noise: Callable[[], Tensor]) -> Path:
        """See `Sampler.solve`; there is no randomness but the start's."""
        check_no_eta(self.name, eta)
        return dpm_solver_2m(look, x, abars.tolist())
