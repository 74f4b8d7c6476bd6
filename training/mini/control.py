"""Train the miniature's ControlNet on maps of all kinds, of which edges are the commonest."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from cldm.cldm import ControlledUnetModel, ControlNet
from cldm.shapes import Scene
from ldm.modules.encoders.modules import FrozenCLIPEmbedder
from training.mini.latents import Latents
from training.mini.loop import Plan, hash_of, train
from training.mini.maps import MAPS, SIZE, shows
from training.mini.unet import Course

PLANS = (
    Plan("control", steps=3_500, learning_rate=1e-3, bfloat16=True),
    Plan("control_longer", steps=8_000, learning_rate=1e-3, bfloat16=True),  # from where the first ended
)
_BATCH = 32
_SHARES = {"canny": 0.4, "pose": 0.12}  # of the maps; the other kinds share the rest evenly
_BORDER_WEIGHT = 4.0  # of the loss in cells of the latents that the shape's border crosses; 1 elsewhere


def map_of(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A control map of the scene of a kind drawn at random, uint8 RGB (128, 128, 3)."""
    rest = (1 - sum(_SHARES.values())) / (len(MAPS) - len(_SHARES))
    kinds, shares = list(MAPS), [_SHARES.get(kind, rest) for kind in MAPS]
    while True:
        kind = kinds[rng.choice(len(kinds), p=shares)]
        if shows(kind, scene):
            return MAPS[kind](scene, rng)


def hints(maps: list[np.ndarray]) -> Tensor:
    """Control maps, uint8 (h, w, 3), as hints (b, 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.stack(maps)).permute(0, 3, 1, 2).float() / 255


def border_weights(scenes: list[Scene], side: int) -> Tensor:
    """Weights of the loss (b, 1, side, side), 1 on average: where the border passes, the map decides what is there."""
    masks = torch.from_numpy(np.stack([scene.mask(SIZE) for scene in scenes])).float()[:, None]
    inside = F.adaptive_avg_pool2d(masks, side)
    weights = 1 + (_BORDER_WEIGHT - 1) * ((inside > 0) & (inside < 1)).float()
    return weights / weights.mean((2, 3), keepdim=True)


def main(
    config: Path,
    work: Path,
    unet: nn.Module,
    text_model: FrozenCLIPEmbedder,
    latents: Latents,
    first: nn.Module | None = None,
) -> ControlNet:
    """Train, or resume, and return the ControlNet; `first` is what the first plan ended with, if it is there."""
    torch.manual_seed(0)
    settings = OmegaConf.load(config)
    params = settings.model.params
    control = ControlNet(**OmegaConf.to_container(params.control_stage_config.params))
    trained = unet.state_dict()
    control.load_state_dict({name: trained.get(name, tensor) for name, tensor in control.state_dict().items()})
    locked = ControlledUnetModel(**OmegaConf.to_container(params.unet_config.params))
    locked.load_state_dict(unet.state_dict())
    locked.eval().requires_grad_(False)
    course = Course(settings, text_model, latents)

    def loss_of(step: int, rng: np.random.Generator) -> Tensor:
        chosen, z, context = course.batch(rng, _BATCH)
        hint = hints([map_of(latents.scenes[i], rng) for i in chosen])
        x, t, v = course.noisy(z)
        error = locked(x, t, context, control=control(x, hint, t, context)).float() - v
        return (border_weights([latents.scenes[i] for i in chosen], z.shape[-1]) * error.square()).mean()

    base = (latents.z, text_model, unet)
    first = train(PLANS[0], control, loss_of, work, based_on=hash_of(*base)) if first is None else first
    control.load_state_dict(first.state_dict())
    return train(PLANS[1], control, loss_of, work, based_on=hash_of(*base, first))
