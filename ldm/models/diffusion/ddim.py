"""Denoising diffusion implicit models (Song et al., arXiv:2010.02502)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ldm.models.diffusion.prediction import Condition, Denoiser, add_noise, eps_and_z, guided_output


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


def standard_normal(
    shape: Sequence[int],
    generators: Sequence[torch.Generator] | None,
    device: torch.device,
) -> Tensor:
    """Noise (b, c, h, w); with one generator for each image, image k's noise depends on the k-th alone.

    Generators on the CPU give the same noise whatever the device.

    Raises:
        ValueError: If there are generators, but not one for each image.
    """
    if generators is None:
        return torch.randn(*shape, device=device)
    if len(generators) != shape[0]:
        raise ValueError(f"expected a generator for each of {shape[0]} images, got {len(generators)}")
    return torch.stack([torch.randn(*shape[1:], generator=g, device=g.device).to(device) for g in generators])


class DDIMSampler:
    """Draws latents from a model by DDIM.

    Args:
        model: Has `apply_model(x, t, cond)`, `parameterization` and `alphas_cumprod`.
    """

    def __init__(self, model: Denoiser, **_accepted: Any):
        self.model = model

    @torch.no_grad()
    def sample(
        self,
        S: int,
        batch_size: int,
        shape: Sequence[int],
        conditioning: Condition | None = None,
        callback: Callable[[int], None] | None = None,
        img_callback: Callable[[Tensor, int], None] | None = None,
        eta: float = 0.0,
        mask: Tensor | None = None,
        x0: Tensor | None = None,
        verbose: bool = True,
        x_T: Tensor | None = None,
        log_every_t: int = 100,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: Condition | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """Denoise in `S` steps.

        Args:
            S: Number of steps.
            batch_size: Number of latents.
            shape: Of one latent, (c, h, w).
            conditioning: For `apply_model`.
            callback: Called with each step's number, from 0.
            img_callback: Called with the predicted clean latent and the step's number.
            eta: Share of fresh noise at each step, from 0 (none) to 1 (as DDPM).
            mask: 1 where `x0` is to be kept, (b, 1, h, w) or like a latent.
            x0: Clean latent that `mask` keeps.
            verbose: Show a progress bar.
            x_T: Noise to start from, (batch_size, c, h, w); drawn if not given.
            log_every_t: Steps between the latents that are returned beside the last.
            unconditional_guidance_scale: 1 is no guidance.
            unconditional_conditioning: For guidance; without it there is none.
            generators: One for each latent; all noise that is not given is drawn from these.

        Returns:
            Latents (batch_size, c, h, w), and {"x_inter": [...], "pred_x0": [...]} along the way.

        Raises:
            ValueError: If S or eta is out of range, `x_T` has another shape, or `mask` comes without `x0`.
        """
        model = self.model
        device = model.alphas_cumprod.device
        size = (batch_size, *shape)
        timesteps = ddim_timesteps(S, len(model.alphas_cumprod))
        if (mask is None) != (x0 is None):
            raise ValueError("mask and x0 go together: give both to keep a part of x0, or neither")
        if x_T is None:
            x = standard_normal(size, generators, device)
        elif tuple(x_T.shape) == size:
            x = x_T.to(device)
        else:
            raise ValueError(f"x_T must have the shape {size}, got {tuple(x_T.shape)}")
        prepare = getattr(model, "prepare_condition", dict)
        cond = prepare(conditioning or {})
        uncond = None if unconditional_conditioning is None else prepare(unconditional_conditioning)
        passed: dict[str, list[Tensor]] = {"x_inter": [x], "pred_x0": [x]}
        steps = list(zip(timesteps, [0, *timesteps[:-1]], strict=True))[::-1]
        for i, (t, t_prev) in enumerate(tqdm(steps, desc="DDIM", disable=not verbose)):
            abar, abar_prev = model.alphas_cumprod[t], model.alphas_cumprod[t_prev]
            if mask is not None and x0 is not None:
                kept = add_noise(x0, standard_normal(size, generators, device), abar)
                x = mask * kept + (1 - mask) * x
            batch_t = torch.full((batch_size,), t, device=device)
            output = guided_output(model, x, batch_t, cond, uncond, unconditional_guidance_scale)
            eps, z = eps_and_z(output, x, abar, model.parameterization)
            noise = standard_normal(size, generators, device) if eta > 0 else None
            x = ddim_step(x, eps, abar, abar_prev, eta, noise)
            if callback is not None:
                callback(i)
            if img_callback is not None:
                img_callback(z, i)
            if i % log_every_t == 0 or i == S - 1:
                passed["x_inter"].append(x)
                passed["pred_x0"].append(z)
        return x, passed
