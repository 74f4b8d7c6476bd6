"""Scenes as latents, made once: the autoencoder is a quarter of the cost of a training step otherwise."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from cldm.cache.key import weights_hash
from cldm.shapes import Scene, sample_scene
from ldm.models.autoencoder import AutoencoderKL
from training.mini.autoencoder import SIZE, pixels

COUNT = 32_000
_BATCH = 16
_SEED = 2


@dataclass(frozen=True)
class Latents:
    """Scenes and their latents (n, 4, 16, 16), scaled to a standard deviation of 1."""

    scenes: list[Scene]
    z: Tensor
    scale_factor: float


def scenes(count: int) -> list[Scene]:
    """The first scenes of the training set, none of a held-out combination."""
    rng = np.random.default_rng(_SEED)
    return [sample_scene(rng, from_held_out=False) for _ in range(count)]


@torch.inference_mode()
def encode(autoencoder: AutoencoderKL, work: Path, count: int = COUNT) -> Latents:
    """Encode scenes, or go on where it was interrupted; kept in the work folder in half precision.

    Raises:
        ValueError: If those that are kept are of another autoencoder.
    """
    file, made_with = work / "latents.pt", weights_hash(autoencoder)
    means = _kept(file, made_with) if file.exists() else []
    chosen = scenes(count)
    autoencoder = autoencoder.eval().to(memory_format=torch.channels_last)
    progress = tqdm(range(len(means) * _BATCH, count, _BATCH), desc="latents", mininterval=10)
    for i in progress:
        batch = pixels([scene.image(SIZE) for scene in chosen[i : i + _BATCH]])
        means.append(autoencoder.encode(batch).mode().half())
        if len(means) % 200 == 0 or i + _BATCH >= count:
            torch.save({"means": means, "autoencoder": made_with}, file.with_suffix(".tmp"))
            file.with_suffix(".tmp").replace(file)
    z = torch.cat(means).float()
    scale_factor = round(1 / z.std().item(), 4)
    return Latents(chosen, z * scale_factor, scale_factor)


def _kept(file: Path, made_with: str) -> list[Tensor]:
    kept = torch.load(file, weights_only=True)
    if not isinstance(kept, dict) or kept["autoencoder"] != made_with:
        raise ValueError(f"{file} is not of this autoencoder (SHA-256 {made_with[:16]}...); move it away to start anew")
    return kept["means"]
