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
from training.mini.loop import Plan, train
from training.mini.maps import MAPS, shows
from training.mini.unet import Course

PLANS = (
    Plan("control", steps=3_500, learning_rate=1e-3, bfloat16=True),
    Plan("control_longer", steps=4_500, learning_rate=7e-4, bfloat16=True),  # from where the first ended
)
_BATCH = 32
_CANNY_SHARE = 0.28  # of the maps; the other kinds share the rest evenly


def map_of(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A control map of the scene of a kind drawn at random, uint8 RGB (128, 128, 3)."""
    while True:
        others = [kind for kind in MAPS if kind != "canny"]
        kind = "canny" if rng.random() < _CANNY_SHARE else others[rng.integers(len(others))]
        if shows(kind, scene):
            return MAPS[kind](scene, rng)


def hints(maps: list[np.ndarray]) -> Tensor:
    """Control maps, uint8 (h, w, 3), as hints (b, 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.stack(maps)).permute(0, 3, 1, 2).float() / 255


def main(config: Path, work: Path, unet: nn.Module, text_model: FrozenCLIPEmbedder, latents: Latents) -> ControlNet:
    """Train, or resume, and return the ControlNet."""
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
        return F.mse_loss(locked(x, t, context, control=control(x, hint, t, context)).float(), v)

    control.load_state_dict(train(PLANS[0], control, loss_of, work).state_dict())
    return train(PLANS[1], control, loss_of, work)
