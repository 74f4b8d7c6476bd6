"""DPM-Solver++ against diffusers' scheduler, and its order where the exact answer is known."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from denoisers import ABAR, PREDICTION_TYPES, SHAPE, STABLE_DIFFUSION, ExactModel, Wobbly, assert_samples_like, start
from ldm.models.diffusion.dpm_solver import (
    DPMSolverSampler,
    dpm_solver_2m,
    dpm_solver_step,
    extrapolated,
    noise_level,
    spread_timesteps,
)
from solvers import error_of


def scheduler(parameterization: str) -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        **STABLE_DIFFUSION,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=True,
        euler_at_final=True,
        final_sigmas_type="sigma_min",
        prediction_type=PREDICTION_TYPES[parameterization],
    )


@pytest.mark.parametrize("steps", [1, 2, 7, 14, 15, 20, 30])
@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_sampling_is_diffusers(parameterization, steps):
    assert_samples_like(DPMSolverSampler, scheduler(parameterization), steps, parameterization)


@pytest.mark.parametrize("steps", [*range(1, 101), 500, 998, 999])
def test_timesteps_fall_from_the_last_to_the_first(steps):
    times = spread_timesteps(steps, ABAR)
    assert (times[0], times[-1], len(times)) == (999, 0, steps + 1)
    assert all(s > t for s, t in pairwise(times))


def test_timesteps_are_even_in_the_mean_of_time_and_lambda():
    times = spread_timesteps(10, ABAR)
    lambdas = [noise_level(float(abar)).lambda_ for abar in ABAR[times]]
    share = [
        (t / 999 + (lambdas[-1] - at) / (lambdas[-1] - lambdas[0])) / 2 for t, at in zip(times, lambdas, strict=True)
    ]
    np.testing.assert_allclose(share, np.linspace(1, 0, 11), atol=0.02)
    assert times == [999, 894, 782, 661, 535, 404, 275, 154, 58, 9, 0]


def test_a_noise_level_by_hand():
    alpha, sigma, lambda_ = noise_level(0.64)
    assert (alpha, sigma) == (pytest.approx(0.8), pytest.approx(0.6))
    assert lambda_ == pytest.approx(math.log(0.8 / 0.6))


def test_a_first_order_step_keeps_clean_latent_and_noise():
    s, t = noise_level(0.3), noise_level(0.8)
    z, eps = torch.tensor([1.7]), torch.tensor([-0.4])
    moved = dpm_solver_step(s.alpha * z + s.sigma * eps, z, s, t)
    torch.testing.assert_close(moved, t.alpha * z + t.sigma * eps)


def test_the_clean_latent_is_extrapolated_along_a_line_in_lambda():
    levels = [noise_level(abar) for abar in (0.1, 0.35, 0.8)]
    line = [torch.tensor([3.0 - 2 * level.lambda_]) for level in levels]
    halfway = (levels[1].lambda_ + levels[2].lambda_) / 2
    found = extrapolated(line[1], (levels[0], line[0]), levels[1], levels[2])
    torch.testing.assert_close(found, torch.tensor([3.0 - 2 * halfway]))


def test_errors_fall_with_the_square_of_the_number_of_steps():
    errors = [error_of(dpm_solver_2m, steps) for steps in (40, 80, 160, 320)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (orders > 1.8).all(), orders
    assert orders[-1] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_a_single_point_is_found_in_any_number_of_steps(parameterization):
    for steps in (1, 4, 30):
        passed = []
        DPMSolverSampler(ExactModel(2.5, 0.0, parameterization)).sample(
            steps, 2, SHAPE, x_T=start(), verbose=False, img_callback=lambda z, i, passed=passed: passed.append((i, z))
        )
        assert [i for i, _ in passed] == list(range(steps))
        for _, z in passed:
            torch.testing.assert_close(z, torch.full_like(z, 2.5), rtol=0, atol=2e-3)


def test_one_step_is_ddim():
    x, _ = DPMSolverSampler(Wobbly("eps")).sample(1, 2, SHAPE, x_T=start(), verbose=False)
    eps = Wobbly("eps").apply_model(start(), torch.full((2,), 999), {})
    z = (start() - (1 - ABAR[999]).sqrt() * eps) / ABAR[999].sqrt()
    torch.testing.assert_close(x, ABAR[0].sqrt() * z + (1 - ABAR[0]).sqrt() * eps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"S": 0}, "steps must be between 1 and 999, got 0"),
        ({"S": 1000}, "steps must be between 1 and 999, got 1000"),
        (
            {"eta": 0.5},
            r"eta must be 0 with DPM-Solver\+\+, which adds no noise on the way, got 0.5; DDIM takes others",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DPMSolverSampler(ExactModel(0.0, 1.0)).sample(
            **{"S": 3, "batch_size": 2, "shape": SHAPE, "verbose": False, **arguments}
        )
