"""What a network predicts, and how predictions turn into one another and are guided.

Notation: x is the noisy latent, z the clean one, eps the noise; x = sqrt(abar) z + sqrt(1 - abar) eps, and
v = sqrt(abar) eps - sqrt(1 - abar) z (Salimans & Ho, arXiv:2202.00512, appendix D).
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

Condition = Mapping[str, Any]
PARAMETERIZATIONS = ("eps", "v")


class Denoiser(Protocol):
    """What a sampler needs of a model."""

    parameterization: str
    alphas_cumprod: Tensor

    def apply_model(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor: ...


def add_noise(z: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """The noisy latent x."""
    return abar.sqrt() * z + (1 - abar).sqrt() * eps


def velocity(z: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """The velocity v of clean latent and noise."""
    return abar.sqrt() * eps - (1 - abar).sqrt() * z


def eps_and_z(output: Tensor, x: Tensor, abar: Tensor, parameterization: str) -> tuple[Tensor, Tensor]:
    """Noise and clean latent that a network's `output` at `x` stands for.

    Raises:
        ValueError: If the parameterization is neither "eps" nor "v".
    """
    if parameterization == "eps":
        return output, (x - (1 - abar).sqrt() * output) / abar.sqrt()
    if parameterization == "v":
        return abar.sqrt() * output + (1 - abar).sqrt() * x, abar.sqrt() * x - (1 - abar).sqrt() * output
    raise ValueError(f"parameterization must be one of {', '.join(PARAMETERIZATIONS)}, got {parameterization!r}")


def guided(
    model: Denoiser, cond: Condition, uncond: Condition | None = None, scale: float = 1.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """The network's output moved away from the unconditional one (Ho & Salimans, arXiv:2207.12598, eq. (6)).

    Both come from one pass wherever both conditions are made of the same parts; in guess mode, where the
    unconditional one brings no hint, from two. A model that says `broadcasts_latents` gets the latent once for both
    conditions, to compute what does not depend on them once. What is the same at every time step is done here: joining
    the conditions, and what the model's `prepare_condition` does, if it has one.

    Returns:
        A function of (x, t).
    """
    prepare = getattr(model, "prepare_condition", dict)
    if uncond is None or scale == 1.0:
        alone = prepare(cond)
        return lambda x, t: model.apply_model(x, t, alone)
    joined = join_conditions(uncond, cond)
    passes = [prepare(c) for c in ((uncond, cond) if joined is None else (joined,))]
    broadcasts = getattr(model, "broadcasts_latents", False)

    def output(x: Tensor, t: Tensor) -> Tensor:
        if len(passes) == 1:
            both = (x, t) if broadcasts else (torch.cat([x, x]), torch.cat([t, t]))
            without, given = model.apply_model(*both, passes[0]).chunk(2)
        else:
            without, given = (model.apply_model(x, t, prepared) for prepared in passes)
        return without + scale * (given - without)

    return output


def join_conditions(first: Condition, second: Condition) -> dict[str, Any] | None:
    """One condition for a batch of both, or None where they differ in more than the values of tensors."""
    if first.keys() != second.keys():
        return None
    joined = {}
    for name, a in first.items():
        b = second[name]
        if _are_tensors(a) and _are_tensors(b) and [v.shape for v in a] == [v.shape for v in b]:
            joined[name] = [torch.cat(pair) for pair in zip(a, b, strict=True)]
        elif not _are_tensors(a) and not _are_tensors(b) and a == b:
            joined[name] = a
        else:
            return None
    return joined


def _are_tensors(values: Any) -> bool:
    return isinstance(values, list | tuple) and len(values) > 0 and all(isinstance(v, Tensor) for v in values)
