"""Train the miniature's autoencoder: first on crops, which is four times cheaper, then on whole images."""

from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from cldm.shapes import sample_scene
from ldm.models.autoencoder import AutoencoderKL, reconstruction_loss
from ldm.util import instantiate_from_config
from training.mini.loop import Plan, train

SIZE = 128
CROP = 64
KL_WEIGHT = 5e-3  # heavy enough that latents tolerate a sampler's small errors, light enough to cost no sharpness


def pixels(images: list[np.ndarray]) -> Tensor:
    """uint8 RGB images of one size to (b, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def crop(rng: np.random.Generator) -> np.ndarray:
    """A piece of a scene around a point of its shape, uint8 RGB (CROP, CROP, 3)."""
    scene = sample_scene(rng, from_held_out=False)
    focus = np.array(scene.centre) * SIZE + rng.uniform(-1, 1, 2) * scene.radius * SIZE
    x, y = np.clip(focus - CROP / 2, 0, SIZE - CROP).astype(int)
    return scene.image(SIZE)[y : y + CROP, x : x + CROP]


def psnr(autoencoder: AutoencoderKL, count: int = 64, seed: int = 1) -> float:
    """Peak signal-to-noise ratio in dB, from the mean squared error over `count` held-out scenes."""
    rng = np.random.default_rng(seed)
    errors = []
    for _ in range(count // 8):
        images = pixels([sample_scene(rng, from_held_out=True).image(SIZE) for _ in range(8)])
        with torch.inference_mode():
            decoded = autoencoder.decode(autoencoder.encode(images).mode()).clamp(-1, 1)
        errors.append((decoded - images).square().mean().item() / 4)
    return float(-10 * np.log10(np.mean(errors)))


def main(config: Path, work: Path, crops: int = 7000, whole: int = 2000) -> nn.Module:
    """Train, or resume, and return the autoencoder."""
    torch.manual_seed(0)
    first_stage = OmegaConf.load(config).model.params.first_stage_config
    autoencoder = instantiate_from_config(OmegaConf.to_container(first_stage))

    def loss_of(step: int, rng: np.random.Generator) -> Tensor:
        if step < crops:
            images = pixels([crop(rng) for _ in range(8)])
        else:
            images = pixels([sample_scene(rng, from_held_out=False).image(SIZE) for _ in range(3)])
        reconstruction, posterior = autoencoder(images)
        return reconstruction_loss(images, reconstruction, posterior, KL_WEIGHT)

    plan = Plan("autoencoder", steps=crops + whole, learning_rate=1.5e-3)
    return train(plan, autoencoder, loss_of, work, lambda network: {"psnr": psnr(network)})
