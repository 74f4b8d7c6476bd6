"""Noise schedules and what follows from them (Ho et al., arXiv:2006.11239)."""

import numpy as np
import torch
from torch import Tensor


def make_beta_schedule(
    schedule: str, n_timestep: int, linear_start: float = 1e-4, linear_end: float = 2e-2
) -> np.ndarray:
    """Variances of the noise added at each step, float64 (n_timestep,).

    Args:
        schedule: "linear" (linear in the square root, as Stable Diffusion's) or "sqrt_linear" (linear as such).
        n_timestep: Number of steps.
        linear_start: First variance.
        linear_end: Last variance.

    Raises:
        ValueError: If the schedule is none of these.
    """
    if schedule == "linear":
        return np.linspace(linear_start**0.5, linear_end**0.5, n_timestep, dtype=np.float64) ** 2
    if schedule == "sqrt_linear":
        return np.linspace(linear_start, linear_end, n_timestep, dtype=np.float64)
    raise ValueError(f"beta_schedule must be linear or sqrt_linear, got {schedule!r}")


def schedule_buffers(betas: np.ndarray) -> dict[str, Tensor]:
    """The buffers that full checkpoints carry, by their published names, float32 (n,) on the CPU.

    They are computed in float64 on the CPU even while a model is built on the meta device.
    """
    alphas = 1.0 - betas
    abar = np.cumprod(alphas)
    abar_prev = np.append(1.0, abar[:-1])
    variance = betas * (1.0 - abar_prev) / (1.0 - abar)  # arXiv:2006.11239, eq. (7)
    buffers = {
        "betas": betas,
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": abar_prev,
        "sqrt_alphas_cumprod": np.sqrt(abar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1.0 - abar),
        "log_one_minus_alphas_cumprod": np.log(1.0 - abar),
        "sqrt_recip_alphas_cumprod": np.sqrt(1.0 / abar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1.0 / abar - 1.0),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(abar_prev) / (1.0 - abar),
        "posterior_mean_coef2": (1.0 - abar_prev) * np.sqrt(alphas) / (1.0 - abar),
        "logvar": np.zeros_like(betas),
    }
    return {name: torch.tensor(values, dtype=torch.float32, device="cpu") for name, values in buffers.items()}
