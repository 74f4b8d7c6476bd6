"""How a model does on one pair: the loss, a sample, and how faithfully that follows the control."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cldm.cldm import ControlLDM
from cldm.fidelity import edge_fidelity, plain_shape, shape_fidelity
from cldm.training.pairs import Pair, to_uint8
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.draws import Draws
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution

SEED = 0
"""Of all noise in validations, whatever the run's, so that runs can be compared as well."""

TIMES = 8
"""Time steps at which each pair's loss is taken, spread evenly."""


class Measure(NamedTuple):
    """A fidelity: what it is in words, and of an image and its pair, in [0, 1]."""

    label: str
    of: Callable[[np.ndarray, Pair], float]


class Judged(NamedTuple):
    """What comes out for a pair: its number, loss and fidelity, and the sample, uint8 RGB (H, W, 3)."""

    number: int
    loss: float
    fidelity: float
    image: np.ndarray


def shown(hint: Tensor) -> np.ndarray:
    """A hint (1, c, H, W) in [0, 1] as uint8 (H, W, 3); the mean of its channels if they are not three."""
    hint = hint if hint.shape[1] == 3 else hint.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    return to_uint8(hint * 2 - 1)


def _shape(image: np.ndarray, pair: Pair) -> float:
    return shape_fidelity(image, pair.target)


def _edges(image: np.ndarray, pair: Pair) -> float:
    return edge_fidelity(image, pair.target)


def _hint_edges(image: np.ndarray, pair: Pair) -> float:
    return edge_fidelity(image, shown(pair.hint))


MEASURES = {
    "shape": Measure("IoU of the shape", _shape),
    "edges": Measure("F1 of the edges", _edges),
    "hint_edges": Measure("F1 of the edges, to the hint's", _hint_edges),
}
"""By the names that the settings have for them; functions that other processes can be sent."""


def choose_measure(fidelity: str, pairs: Sequence[Pair]) -> Measure:
    """The measure of that name; "auto" is shape if all targets are plain shapes, and edges otherwise.

    Raises:
        ValueError: If "shape" is asked for and a target is none.
    """
    plain = [plain_shape(pair.target) is not None for pair in pairs]
    if fidelity == "shape" and not all(plain):
        raise ValueError(
            f"fidelity=shape is for targets of one plain shape on a plain background, and {plain.count(False)} of the "
            f"{len(pairs)} validation pairs are none; use fidelity=edges"
        )
    if fidelity == "auto":
        return MEASURES["shape" if all(plain) else "edges"]
    return MEASURES[fidelity]


@torch.no_grad()
def judge(
    model: ControlLDM,
    pair: Pair,
    number: int,
    measure: Measure,
    sampling: tuple[int, float],
    precision: AbstractContextManager[Any],
) -> Judged:
    """Judge a model on a pair; neither its state nor torch's random numbers are touched.

    Args:
        model: In evaluation.
        pair: See `Pair`.
        number: Of the pair: all noise follows from it.
        measure: Of fidelity.
        sampling: DDIM steps, and guidance scale.
        precision: In which the networks run; the autoencoder runs in its own.
    """
    context, no_context, hint = (v.to(model.device) for v in (pair.context, pair.no_context, pair.hint))
    cond = {"c_crossattn": [context], "c_concat": [hint]}
    with precision:
        loss = float(_loss(model, pair, number, cond))
        latent = _sample(model, pair, number, cond, {**cond, "c_crossattn": [no_context]}, sampling)
    image = to_uint8(model.decode_first_stage(latent.float()))
    return Judged(number, loss, measure.of(image, pair), image)


def _loss(model: ControlLDM, pair: Pair, number: int, cond: dict[str, Any]) -> Tensor:
    """Mean error over fixed time steps, one at a time, without weights."""
    posterior = DiagonalGaussianDistribution(pair.moments.to(model.device))
    errors = []
    for k in range(TIMES):
        draws = Draws(SEED, 1 + k, [number])
        z = model.scale_factor * (posterior.mean + posterior.std * draws.posterior(posterior.mean))
        t = torch.tensor([(2 * k + 1) * model.num_timesteps // (2 * TIMES)], device=model.device)
        errors.append(model.errors(z, cond, t, draws.noise(z)))
    return torch.cat(errors).mean()


def _sample(
    model: ControlLDM,
    pair: Pair,
    number: int,
    cond: dict[str, Any],
    uncond: dict[str, Any],
    sampling: tuple[int, float],
) -> Tensor:
    """A latent (1, c, h, w) by DDIM from fixed noise."""
    steps, scale = sampling
    moments = pair.moments.to(model.device)
    x = Draws(SEED, 0, [number]).noise(moments[:, : moments.shape[1] // 2])
    latent, _ = DDIMSampler(model).sample(
        steps,
        1,
        tuple(x.shape[1:]),
        cond,
        unconditional_guidance_scale=scale,
        unconditional_conditioning=uncond,
        x_T=x,
        verbose=False,
    )
    return latent
