"""UniPC against diffusers' scheduler, and its order where the exact answer is known."""

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from denoisers import PREDICTION_TYPES, SHAPE, STABLE_DIFFUSION, ExactModel, assert_samples_like, start
from ldm.models.diffusion.dpm_solver import dpm_solver_2m, noise_level
from ldm.models.diffusion.uni_pc import UniPCSampler, uni_c, uni_p, uni_pc
from solvers import error_of


def scheduler(parameterization: str) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        **STABLE_DIFFUSION,
        solver_order=2,
        solver_type="bh2",
        predict_x0=True,
        lower_order_final=True,
        final_sigmas_type="sigma_min",
        prediction_type=PREDICTION_TYPES[parameterization],
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 15, 20, 30])
@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_sampling_is_diffusers(parameterization, steps):
    assert_samples_like(UniPCSampler, scheduler(parameterization), steps, parameterization)


def test_the_corrector_is_exact_where_the_clean_latent_is_a_parabola_in_lambda():
    """The integral of e^lambda z(lambda) to compare with is a fine sum."""
    levels = [noise_level(abar) for abar in (0.2, 0.4, 0.7)]

    def z(lambda_: float) -> torch.Tensor:
        return torch.tensor([1 + 0.5 * lambda_ - 0.8 * lambda_**2], dtype=torch.float64)

    before, s, t = ((level, z(level.lambda_)) for level in levels)
    x = torch.tensor([0.3], dtype=torch.float64)
    edges = np.linspace(s[0].lambda_, t[0].lambda_, 20001)
    middles = (edges[1:] + edges[:-1]) / 2
    integral = sum(z(m).item() * np.exp(m) for m in middles) * (edges[1] - edges[0])
    exact = t[0].sigma / s[0].sigma * x + t[0].sigma * integral
    torch.testing.assert_close(uni_c(x, s, t, before), exact, rtol=1e-8, atol=1e-8)
    assert (uni_p(x, s, t[0], before) - exact).abs().item() > 1e-3, "a predictor as good would make this test empty"


def test_errors_fall_with_the_square_of_the_number_of_steps():
    """Up to a few hundred steps they are so small that the parts of the error that cancel hide the order."""
    errors = [error_of(uni_pc, steps) for steps in (320, 640, 1280)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (orders > 1.6).all(), orders
    assert orders[-1] == pytest.approx(2, abs=0.2)


def test_it_is_closer_than_its_predictor_alone():
    for steps in (20, 40, 80):
        assert error_of(uni_pc, steps) < error_of(dpm_solver_2m, steps)


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_a_single_point_is_found_in_any_number_of_steps(parameterization):
    for steps in (1, 4, 30):
        passed = []
        UniPCSampler(ExactModel(2.5, 0.0, parameterization)).sample(
            steps, 2, SHAPE, x_T=start(), verbose=False, img_callback=lambda z, i, passed=passed: passed.append((i, z))
        )
        assert [i for i, _ in passed] == list(range(steps))
        for _, z in passed:
            torch.testing.assert_close(z, torch.full_like(z, 2.5), rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"S": 0}, "steps must be between 1 and 999, got 0"),
        ({"eta": 1.0}, r"eta must be 0 with UniPC, which adds no noise on the way, got 1.0; DDIM takes others"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        UniPCSampler(ExactModel(0.0, 1.0)).sample(
            **{"S": 3, "batch_size": 2, "shape": SHAPE, "verbose": False, **arguments}
        )
