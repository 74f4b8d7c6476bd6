"""UniPC of second order with B(h) = e^h - 1, a predictor and a corrector (Zhao et al., arXiv:2302.04867).

The corrector takes each step again with the model's answer at its end. As that answer is needed for the next step
anyway, a step still asks the model once. The second-order predictor is DPM-Solver++'s step.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from ldm.models.diffusion.dpm_solver import (
    Level,
    check_no_eta,
    dpm_solver_step,
    extrapolated,
    noise_level,
    spread_timesteps,
)
from ldm.models.diffusion.sampler import Look, Path, Sampler

Point = tuple[Level, Tensor]
"""A noise level, and the clean latent that the model saw there."""


def uni_p(x: Tensor, s: Point, t: Level, before: Point | None) -> Tensor:
    """Predict the latent at level `t` from the one at `s`, UniP-2; of first order without the point `before` it."""
    level, z = s
    return dpm_solver_step(x, z if before is None else extrapolated(z, before, level, t), level, t)


def uni_c(x: Tensor, s: Point, t: Point, before: Point | None) -> Tensor:
    """Correct the latent at level `t`, where the model has been asked meanwhile, UniC-2 (theorem 3.1).

    Args:
        x: Latent at `s`.
        s: Where the step starts.
        t: Where it ends; the clean latent is the one seen in the predicted `x`.
        before: The point before `s`; without it, the correction is UniC-1.
    """
    (start, z), (end, z_end) = s, t
    if before is None:
        return dpm_solver_step(x, z + (z_end - z) / 2, start, end)
    h = end.lambda_ - start.lambda_
    r = (before[0].lambda_ - start.lambda_) / h  # negative: a point in the past
    weight, weight_end = _corrector_weights(-h, r)
    return dpm_solver_step(x, z + weight * (before[1] - z) / r + weight_end * (z_end - z), start, end)


def _corrector_weights(h: float, r: float) -> tuple[float, float]:
    """Of the differences to the points at r and at 1: the solution of R_2(h) a B(h) = phi_2(h) in theorem 3.1."""
    b = math.expm1(h)
    phi_1 = b / h
    phi_2 = (phi_1 - 1) / h
    moment_0, moment_1 = (phi_1 - 1) / b, 2 * (phi_2 - 1 / 2) / b
    weight = (moment_0 - moment_1) / (1 - r)
    return weight, moment_0 - weight


def uni_pc(look: Look, x: Tensor, abars: Sequence[float]) -> Path:
    """Lead noise to the data; the last step is of first order. See `Sampler.solve`."""
    levels = [noise_level(abar) for abar in abars]
    steps = len(levels) - 1
    points: list[Point] = []
    start = x  # of the last step, as corrected
    for i, (s, t) in enumerate(pairwise(levels)):
        x, _, z = look(x, i)
        if points:
            x = uni_c(start, points[-1], (s, z), points[-2] if len(points) > 1 else None)
        before = points[-1] if points and i < steps - 1 else None
        start, points = x, [*points[-1:], (s, z)]
        x = uni_p(x, points[-1], t, before)
        yield x, z


class UniPCSampler(Sampler):
    """Draws latents from a model by UniPC; `sample` is the samplers' common one.

    Args:
        model: Has `apply_model(x, t, cond)`, `parameterization` and `alphas_cumprod`.
    """

    name = "UniPC"

    def timesteps(self, steps: int) -> list[int]:
        """See `spread_timesteps`."""
        return spread_timesteps(steps, self.model.alphas_cumprod)

    def solve(self, look: Look, x: Tensor, abars: Tensor, eta: float, noise: Callable[[], Tensor]) -> Path:
        """See `Sampler.solve`; there is no randomness but the start's."""
        check_no_eta(self.name, eta)
        return uni_pc(look, x, abars.tolist())
