"""Denoisers whose samples are known beforehand, or that no error heals in, for the tests of samplers."""

from typing import Any

import torch
from torch import Tensor

from ldm.models.diffusion.prediction import velocity
from ldm.models.diffusion.sampler import Sampler
from ldm.models.diffusion.schedule import make_beta_schedule, schedule_buffers

ABAR = schedule_buffers(make_beta_schedule("linear", 1000, 0.00085, 0.0120))["alphas_cumprod"]
SHAPE = (4, 4, 4)
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.0120, "beta_schedule": "scaled_linear"}
PREDICTION_TYPES = {"eps": "epsilon", "v": "v_prediction"}
"""As diffusers' schedulers name them."""


class ExactModel:
    """The ideal denoiser of latents that are independently normal with a mean and a standard deviation."""

    alphas_cumprod = ABAR

    def __init__(self, mean: float, std: float, parameterization: str = "eps"):
        self.mean, self.std, self.parameterization = mean, std, parameterization
        self.times: list[int] = []

    def apply_model(self, x: Tensor, t: Tensor, cond) -> Tensor:
        assert (t == t[0]).all()
        self.times.append(int(t[0]))
        abar = self.alphas_cumprod[t][:, None, None, None]
        variance = abar * self.std**2 + 1 - abar
        eps = (1 - abar).sqrt() * (x - abar.sqrt() * self.mean) / variance
        z = self.mean + abar.sqrt() * self.std**2 * (x - abar.sqrt() * self.mean) / variance
        return eps if self.parameterization == "eps" else velocity(z, eps, abar)


class Wobbly(ExactModel):
    """A denoiser that is no ideal one, so that errors do not heal."""

    def __init__(self, parameterization: str):
        super().__init__(0.0, 1.0, parameterization)

    def apply_model(self, x: Tensor, t: Tensor, cond) -> Tensor:
        self.times.append(int(t[0]))
        return torch.tanh(x.roll(1, -1) + 0.3 * x + t[:, None, None, None] / 500)


def start(count: int = 2) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def assert_samples_like(sampler: type[Sampler], scheduler: Any, steps: int, parameterization: str) -> None:
    """A sampler ends at the same latents as diffusers' scheduler, which is given the sampler's time steps."""
    model = Wobbly(parameterization)
    timesteps = sampler(model).timesteps(steps)
    ours, _ = sampler(model).sample(steps, 2, SHAPE, x_T=start(), verbose=False)
    scheduler.set_timesteps(steps)
    scheduler.timesteps = torch.tensor(timesteps[:-1])
    scheduler.sigmas = (1 / ABAR[timesteps] - 1).sqrt()
    x = start()
    for t in scheduler.timesteps:
        x = scheduler.step(model.apply_model(x, t.expand(2), {}), t, x).prev_sample
    assert model.times[:steps] == model.times[steps:] == scheduler.timesteps.tolist()
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)
