"""What all samplers share: the noise they start from, guidance, progress, and the keeping of a given part."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ldm.models.diffusion.prediction import Condition, Denoiser, add_noise, eps_and_z, guided

Look = Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]
"""What the guided model makes of a latent at the i-th noise level: the latent itself, with what is to be kept put in,
then the noise and the clean latent in it."""

Path = Iterator[tuple[Tensor, Tensor]]
"""After each step the latent, and the clean latent that it was led to."""

_NEUTRAL: Mapping[str, Any] = {
    "temperature": 1.0,
    "noise_dropout": 0.0,
    "score_corrector": None,
    "corrector_kwargs": None,
    "quantize_x0": False,
    "normals_sequence": None,
    "dynamic_threshold": None,
    "ucg_schedule": None,
}
"""Arguments of the original's `sample` for what there is not, with the values that ask for nothing."""


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


def looking(
    model: Denoiser, predict: Callable[[Tensor, Tensor], Tensor], timesteps: Sequence[int], abars: Tensor
) -> Look:
    """What the guided model makes of a latent at the i-th of the time steps, whose noise levels are `abars`."""

    def look(x: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        t = torch.full((len(x),), timesteps[i], device=abars.device)
        return x, *eps_and_z(predict(x, t), x, abars[i], model.parameterization)

    return look


def _check_neutral(given: Mapping[str, Any]) -> None:
    """Check that arguments of the original ask for nothing that there is not.

    Raises:
        ValueError: If one does.
        TypeError: If one is not the original's either.
    """
    for name, value in given.items():
        if name not in _NEUTRAL:
            raise TypeError(f"sample() got an unexpected keyword argument {name!r}")
        neutral = _NEUTRAL[name]
        if not (value is None if neutral is None else value == neutral):
            raise ValueError(f"{name} must be {neutral}: samplers here have nothing else, got {value!r}")


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
        skip: int = 0,
        **neutral: Any,
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
            skip: First steps to leave out: what `x0`, noised as it would be by then, takes the place of. All numbers
                of steps count the others.
            neutral: The original's other arguments (`temperature`, `noise_dropout`, `score_corrector`, ...), at the
                values that ask for nothing.

        Returns:
            Latents (batch_size, c, h, w), and {"x_inter": [...], "pred_x0": [...]} along the way.

        Raises:
            ValueError: If S, eta or `skip` is out of range, `x_T` has another shape, `mask` or `skip` comes
                without `x0`, or an argument of the original asks for what there is not.
            TypeError: If there is no such argument.
        """
        _check_neutral(neutral)
        model = self.model
        device = model.alphas_cumprod.device
        size = (batch_size, *shape)
        timesteps = self.timesteps(S)
        if not 0 <= skip < S:
            raise ValueError(f"skip must be at least 0 and below the number of steps, {S}, got {skip}")
        timesteps = timesteps[skip:]
        steps = S - skip
        abars = model.alphas_cumprod[timesteps]
        if (mask is not None or skip > 0) != (x0 is not None):
            raise ValueError("x0 goes with mask or skip: give it to keep a part of it or to start from it, or neither")
        if x_T is None:
            x = standard_normal(size, generators, device)
        elif tuple(x_T.shape) == size:
            x = x_T.to(device)
        else:
            raise ValueError(f"x_T must have the shape {size}, got {tuple(x_T.shape)}")
        if skip and x0 is not None:
            x = add_noise(x0, x, abars[0])
        predict = guided(model, conditioning or {}, unconditional_conditioning, unconditional_guidance_scale)

        def noise() -> Tensor:
            return standard_normal(size, generators, device)

        seen = looking(model, predict, timesteps, abars)

        def look(x: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
            if mask is not None and x0 is not None:
                x = mask * add_noise(x0, noise(), abars[i]) + (1 - mask) * x
            return seen(x, i)

        passed: dict[str, list[Tensor]] = {"x_inter": [x], "pred_x0": [x]}
        path = self.solve(look, x, abars, eta, noise)
        for i, (x, z) in enumerate(tqdm(path, total=steps, desc=self.name, disable=not verbose)):
            if callback is not None:
                callback(i)
            if img_callback is not None:
                img_callback(z, i)
            if i % log_every_t == 0 or i == steps - 1:
                passed["x_inter"].append(x)
                passed["pred_x0"].append(z)
        return x, passed
