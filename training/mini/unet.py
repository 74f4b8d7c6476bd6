"""Train the miniature's U-Net on latents and prompts; v prediction, which sees flat colours better than eps."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ldm.models.diffusion.prediction import add_noise, velocity
from ldm.models.diffusion.schedule import make_beta_schedule
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.encoders.modules import FrozenCLIPEmbedder
from training.mini.latents import Latents
from training.mini.loop import Plan, hash_of, train
from training.mini.text import NEGATIVE_PROMPT, words_of

PLAN = Plan("unet", steps=5_500, learning_rate=1e-3, bfloat16=True)
_BATCH = 32
_DROPPED_SHARE = 0.1  # of prompts, so that guidance has something to move away from


class Course:
    """What every step of the U-Net's and of the ControlNet's training is made of."""

    def __init__(self, config: DictConfig, text_model: FrozenCLIPEmbedder, latents: Latents):
        params = config.model.params
        betas = make_beta_schedule("linear", params.timesteps, params.linear_start, params.linear_end)
        self.abar = torch.cumprod(1 - torch.as_tensor(betas), 0).float()
        self.text_model = text_model.eval().requires_grad_(False)
        self.latents = latents

    def batch(self, rng: np.random.Generator, count: int) -> tuple[list[int], Tensor, Tensor]:
        """Indices of scenes, their latents, and the tokens of their prompts, some of them dropped."""
        chosen = rng.integers(len(self.latents.scenes), size=count).tolist()
        prompts = [words_of(self.latents.scenes[i], rng) for i in chosen]
        for i in np.flatnonzero(rng.random(count) < _DROPPED_SHARE):
            prompts[i] = "" if rng.random() < 0.5 else NEGATIVE_PROMPT
        with torch.no_grad():
            return chosen, self.latents.z[chosen], self.text_model(prompts)

    def noisy(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, their time steps, and the velocity to predict.

        Time steps are spread evenly over a batch, each at a random offset, which makes its loss less noisy.
        """
        count = len(self.abar)
        t = ((torch.arange(len(z)) + torch.rand(1)) / len(z) * count).long().clamp(max=count - 1)
        t = t[torch.randperm(len(z))]
        eps = torch.randn_like(z)
        abar = self.abar[t][:, None, None, None]
        return add_noise(z, eps, abar), t, velocity(z, eps, abar)


def main(config: Path, work: Path, text_model: FrozenCLIPEmbedder, latents: Latents) -> nn.Module:
    """Train, or resume, and return the U-Net."""
    torch.manual_seed(0)
    settings = OmegaConf.load(config)
    unet = UNetModel(**OmegaConf.to_container(settings.model.params.unet_config.params))
    course = Course(settings, text_model, latents)

    def loss_of(step: int, rng: np.random.Generator) -> Tensor:
        _, z, context = course.batch(rng, _BATCH)
        x, t, v = course.noisy(z)
        return F.mse_loss(unet(x, t, context).float(), v)

    return train(PLAN, unet, loss_of, work, based_on=hash_of(latents.z, text_model))
