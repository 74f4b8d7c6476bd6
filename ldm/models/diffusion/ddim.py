"""Denoising diffusion implicit models (Song et al., arXiv:2010.02502)."""

from collections.abc import Callable

from torch import Tensor

from ldm.models.diffusion.sampler import Look, Path, Sampler, standard_normal

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

    Args:
        model: Has `apply_model(x, t, cond)`, `parameterization` and `alphas_cumprod`.
    """

    name = "DDIM"

    def timesteps(self, steps: int) -> list[int]:
        """Those of `ddim_timesteps`, falling, and 0."""
        return [*ddim_timesteps(steps, len(self.model.alphas_cumprod))[::-1], 0]

    def solve(self, look: Look, x: Tensor, abars: Tensor, eta: float, noise: Callable[[], Tensor]) -> Path:
        """See `Sampler.solve`."""
        return ddim(look, x, abars, eta, noise)
