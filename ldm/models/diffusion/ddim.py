"""Denoising diffusion implicit models (Song et al., arXiv:2010.02502)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ldm.models.diffusion.prediction import Condition, Denoiser, add_noise, guided
from ldm.models.diffusion.sampler import Look, Path, Sampler, looking, standard_normal

__all__ = ["DDIMSampler", "ddim", "ddim_step", "ddim_timesteps", "standard_normal"]


def ddim_timesteps(steps: int, num_timesteps: int = 1000) -> list[int]:
    """Time steps visited, rising: i * (num_timesteps // steps) + 1, exactly `steps` of them.

    Raises:
        ValueError: If `steps` is not between 1 and `num_timesteps`.
    """
    if not 1 <= steps <= num_timesteps:
        raise ValueError(f"steps must be between 1 and {num_timesteps}, got {steps}")
    stride = num_timesteps // steps
    offset = 1 if (steps - 1) * stride + 1 < num_timesteps else 0
    return [i * stride + offset for i in range(steps)]


def ddim_step(
    x: Tensor,
    eps: Tensor,
    abar: Tensor,
    abar_prev: Tensor,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Move a noisy latent one step towards the data, eq. (12).

    Args:
        x: Latent at the current step, (b, c, h, w).
        eps: Noise predicted by the network, same shape as `x`.
        abar: Cumulative product of (1 - beta) at the current step, a scalar in (0, 1].
        abar_prev: The same at the step moved to; larger than `abar`.
        eta: Share of fresh noise: 0 is deterministic DDIM, 1 is DDPM.
        noise: Standard normal, same shape as `x`; needed when `eta` > 0.

    Raises:
        ValueError: If `eta` is not between 0 and 1, where eq. (12) has real roots, or positive without `noise`.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be between 0 (deterministic) and 1 (as DDPM), got {eta}")
    if eta > 0 and noise is None:
        raise ValueError(f"noise must be given where eta is positive, got eta {eta} without it")
    x0 = (x - (1 - abar).sqrt() * eps) / abar.sqrt()  # eq. (9)
    sigma = eta * ((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev)).sqrt()  # eq. (16)
    direction = (1 - abar_prev - sigma**2).sqrt() * eps
    x_prev = abar_prev.sqrt() * x0 + direction
    return x_prev if noise is None else x_prev + sigma * noise


def ddim(look: Look, x: Tensor, abars: Tensor, eta: float, noise: Callable[[], Tensor]) -> Path:
    """Lead noise to the data by `ddim_step`; see `Sampler.solve`."""
    for i in range(len(abars) - 1):
        x, eps, z = look(x, i)
        x = ddim_step(x, eps, abars[i], abars[i + 1], eta, noise() if eta > 0 else None)
        yield x, z


class DDIMSampler(Sampler):
    """Draws latents from a model by DDIM; `sample` is the samplers' common one.

    For scripts that start from an image as with the original: `make_schedule`, `stochastic_encode` and `decode`.

    Args:
        model: Has `apply_model(x, t, cond)`, `parameterization` and `alphas_cumprod`.

    Attributes:
        ddim_timesteps: Time steps of `make_schedule`, rising; none before it.
        ddim_eta: Its eta.
    """

    name = "DDIM"

    def __init__(self, model: Denoiser, **accepted: Any):
        super().__init__(model, **accepted)
        self.ddim_timesteps: list[int] = []
        self.ddim_eta = 0.0
        self._verbose = True

    def timesteps(self, steps: int) -> list[int]:
        """Those of `ddim_timesteps`, falling, and 0."""
        return [*ddim_timesteps(steps, len(self.model.alphas_cumprod))[::-1], 0]

    def solve(self, look: Look, x: Tensor, abars: Tensor, eta: float, noise: Callable[[], Tensor]) -> Path:
        """See `Sampler.solve`."""
        return ddim(look, x, abars, eta, noise)

    def make_schedule(
        self, ddim_num_steps: int, ddim_discretize: str = "uniform", ddim_eta: float = 0.0, verbose: bool = True
    ) -> None:
        """Choose the steps of `stochastic_encode` and `decode`; `sample` has its own.

        Args:
            ddim_num_steps: Number of steps, of which `decode` takes the last ones.
            ddim_discretize: Must be "uniform".
            ddim_eta: Share of fresh noise at each step of `decode`; 0 is deterministic.
            verbose: Show a progress bar in `decode`.

        Raises:
            ValueError: If there cannot be so many steps, or they are to be spread in another way.
        """
        if ddim_discretize != "uniform":
            raise ValueError(f"ddim_discretize must be 'uniform', got {ddim_discretize!r}")
        self.ddim_timesteps = ddim_timesteps(ddim_num_steps, len(self.model.alphas_cumprod))
        self.ddim_eta = ddim_eta
        self._verbose = verbose

    @torch.no_grad()
    def stochastic_encode(
        self, x0: Tensor, t: Tensor, use_original_steps: bool = False, noise: Tensor | None = None
    ) -> Tensor:
        """Noise clean latents to the level of the t-th of `make_schedule`'s time steps.

        They count from 0, so `decode` with `t_start` = t, as it is customary, begins one step below: it asks the model
        at the (t - 1)-th. A `t` of t_start - 1 is exact, and what `sample` does with `skip`.

        Args:
            x0: Clean latents, (b, c, h, w).
            t: Numbers of steps, (b,), integers.
            use_original_steps: Must be false.
            noise: Like `x0`; drawn if not given.

        Raises:
            ValueError: If there is no schedule, or no such step in it.
        """
        timesteps = self._scheduled(use_original_steps)
        numbers, last = t.tolist(), len(timesteps) - 1
        if not all(0 <= k <= last for k in numbers):
            raise ValueError(f"t must be between 0 and {last}, the last of {last + 1} steps, got {numbers}")
        abars = self.model.alphas_cumprod[[timesteps[k] for k in numbers]]
        return add_noise(x0, torch.randn_like(x0) if noise is None else noise, abars[:, None, None, None])

    @torch.no_grad()
    def decode(
        self,
        x_latent: Tensor,
        cond: Condition,
        t_start: int,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: Condition | None = None,
        use_original_steps: bool = False,
        callback: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Denoise in the last `t_start` steps of `make_schedule`, with its eta.

        Args:
            x_latent: Noisy latents, (b, c, h, w).
            cond: For `apply_model`.
            t_start: Number of steps; 0 gives the latents back.
            unconditional_guidance_scale: 1 is no guidance.
            unconditional_conditioning: For guidance; without it there is none.
            use_original_steps: Must be false.
            callback: Called with each step's number, from 0.

        Raises:
            ValueError: If there is no schedule, or it has fewer steps.
        """
        scheduled = self._scheduled(use_original_steps)
        if not 0 <= t_start <= len(scheduled):
            raise ValueError(f"t_start must be between 0 and the number of steps, {len(scheduled)}, got {t_start}")
        timesteps = [*scheduled[:t_start][::-1], 0]
        abars = self.model.alphas_cumprod[timesteps]
        predict = guided(self.model, cond, unconditional_conditioning, unconditional_guidance_scale)
        look = looking(self.model, predict, timesteps, abars)
        path = self.solve(look, x_latent, abars, self.ddim_eta, lambda: torch.randn_like(x_latent))
        x = x_latent
        for i, reached in enumerate(tqdm(path, total=t_start, desc=self.name, disable=not self._verbose)):
            x, _ = reached
            if callback is not None:
                callback(i)
        return x

    def _scheduled(self, use_original_steps: bool) -> list[int]:
        if use_original_steps:
            count = len(self.model.alphas_cumprod)
            raise ValueError(f"use_original_steps must be False, got True; make_schedule({count}) has all time steps")
        if not self.ddim_timesteps:
            raise ValueError("there is no schedule; call make_schedule first, with a number of steps")
        return self.ddim_timesteps
