"""Short runs of the tiny model under Lightning, for tests of training callbacks."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import tiny
from cldm.cldm import ControlLDM
from cldm.shapes import sample_scene
from ldm.models.diffusion.draws import INDEX

SIZE = 64


class Texts(nn.Module):
    """A text encoder without weights: noise that each prompt has to itself."""

    def forward(self, prompts: Sequence[str]) -> Tensor:
        seeds = [zlib.crc32(prompt.encode()) for prompt in prompts]
        return torch.stack([torch.randn(7, 48, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def control_ldm() -> ControlLDM:
    """The tiny model with a text encoder, about to be trained."""
    model = tiny.control_ldm().train()
    model.cond_stage_model = Texts()
    model.learning_rate = 1e-3
    model.trained_parameters()  # locks the others, before processes begin to share gradients
    return model


def items(count: int) -> list[dict[str, Any]]:
    """Scenes as a dataset gives them, with their places."""
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, shapes=("circle",)) for _ in range(count)]
    return [
        {
            "jpg": scene.image(SIZE).astype(np.float32) / 127.5 - 1,
            "hint": scene.outline(SIZE).astype(np.float32) / 255,
            "txt": scene.prompt,
            INDEX: index,
        }
        for index, scene in enumerate(scenes)
    ]


def fit(
    model: ControlLDM,
    samples: Sequence[dict[str, Any]],
    callbacks: Sequence[pl.Callback],
    folder: Path,
    steps: int = 3,
    batch_size: int = 2,
    resume: Path | None = None,
    **trainer: Any,
) -> pl.Trainer:
    """Train in the samples' order."""
    torch.manual_seed(0)
    runs = pl.Trainer(
        accelerator="cpu",
        devices=trainer.pop("devices", 1),
        max_steps=steps,
        max_epochs=-1,
        default_root_dir=folder,
        logger=trainer.pop("logger", False),
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **trainer,
    )
    runs.fit(model, DataLoader(list(samples), batch_size=batch_size), ckpt_path=resume)
    return runs


class Keep(pl.Callback):
    """Writes each process's ControlNet after every step to a file of its own."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: ControlLDM, *_: Any) -> None:
        torch.save(control_weights(pl_module), self.folder / f"{trainer.global_rank}_{trainer.global_step}.pt")


def control_weights(model: ControlLDM) -> dict[str, Tensor]:
    """A copy of the ControlNet's."""
    return {name: tensor.clone() for name, tensor in model.control_model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two dictionaries have the same tensors to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
