"""What all samplers share: the noise they start from, guidance, progress, and the keeping of a given part."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ldm.models.diffusion.prediction import Condition, Denoiser, add_noise, eps_and_z, guided_output

Look = Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]
"""What the guided model makes of a latent at the i-th noise level: the latent itself, with what is to be kept put in,
then the noise and the clean latent in it."""

Path = Iterator[tuple[Tensor, Tensor]]
"""After each step the latent, and the clean latent that it was led to."""


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


class Sampler(ABC):
    """Draws latents from a model; a subclass says at which time steps, and how to get from one to the next.

    Args:
        model: Has `apply_model(x, t, cond)`, `parameterization` and `alphas_cumprod`.
    """

    name = ""

    def __init__(self, model: Denoiser, **_accepted: Any):
        self.model = model

    @abstractmethod
    def timesteps(self, steps: int) -> list[int]:
        """Where the model is asked, falling, and at last where the path ends: `steps` + 1 of them.

        Raises:
            ValueError: If there cannot be so many.
        """

    @abstractmethod
    def solve(self, look: Look, x: Tensor, abars: Tensor, eta: float, noise: Callable[[], Tensor]) -> Path:
        """Lead a noisy latent to the data.

        Args:
            look: The model; its i-th noise level is the i-th of `abars`.
            x: Noise, (b, c, h, w).
            abars: Cumulative products of (1 - beta) at the time steps, rising, (steps + 1,).
            eta: Share of fresh noise at each step.
            noise: Draws noise like `x`.

        Raises:
            ValueError: If the sampler cannot take such an eta.
        """

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
            eta: Share of fresh noise at each step, from 0 (none) to 1 (as DDPM); for DDIM alone.
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
        timesteps = self.timesteps(S)
        abars = model.alphas_cumprod[timesteps]
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

        def noise() -> Tensor:
            return standard_normal(size, generators, device)

        def look(x: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
            if mask is not None and x0 is not None:
                x = mask * add_noise(x0, noise(), abars[i]) + (1 - mask) * x
            t = torch.full((batch_size,), timesteps[i], device=device)
            output = guided_output(model, x, t, cond, uncond, unconditional_guidance_scale)
            return x, *eps_and_z(output, x, abars[i], model.parameterization)

        passed: dict[str, list[Tensor]] = {"x_inter": [x], "pred_x0": [x]}
        path = self.solve(look, x, abars, eta, noise)
        for i, (x, z) in enumerate(tqdm(path, total=S, desc=self.name, disable=not verbose)):
            if callback is not None:
                callback(i)
            if img_callback is not None:
                img_callback(z, i)
            if i % log_every_t == 0 or i == S - 1:
                passed["x_inter"].append(x)
                passed["pred_x0"].append(z)
        return x, passed
