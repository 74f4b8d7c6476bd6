"""A config and weights small enough to write and read in a moment, with all the parts of a ControlLDM."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from cldm.model import create_model
from cldm.weights.blueprint import Blueprint
from ldm.deferred import HandedOver
from tiny import encoder_params

CONTROL, UNET = "control_model.", "model.diffusion_model."
POSITION_IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


def tiny_config(folder: Path, version: str = "15", context_dim: int = 16) -> Path:
    """A yaml of a ControlLDM in the style of SD "15" or "21"."""
    encoder: dict[str, Any] = {**encoder_params(version), "context_dim": context_dim}
    autoencoder = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 64,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    text = {"width": context_dim, "heads": 2, "layers": 1}
    targets: dict[str, tuple[str, dict[str, Any]]] = {
        "control_stage_config": ("cldm.cldm.ControlNet", {**encoder, "hint_channels": 3}),
        "unet_config": ("cldm.cldm.ControlledUnetModel", {**encoder, "out_channels": 4}),
        "first_stage_config": ("ldm.models.autoencoder.AutoencoderKL", {"embed_dim": 4, "ddconfig": autoencoder}),
        "cond_stage_config": ("ldm.modules.encoders.modules.FrozenCLIPEmbedder", text),
    }
    params: dict[str, Any] = {name: {"target": t, "params": p} for name, (t, p) in targets.items()}
    params |= {"linear_start": 0.00085, "linear_end": 0.012, "first_stage_key": "jpg", "cond_stage_key": "txt"}
    params |= {"control_key": "hint", "scale_factor": 0.18215, "image_size": 8}
    path = folder / f"tiny{version}_{context_dim}.yaml"
    OmegaConf.save({"model": {"target": "cldm.cldm.ControlLDM", "params": params}}, path)
    return path


def blueprint(config: Path) -> Blueprint:
    return Blueprint.of(create_model(config), str(config))


@cache
def full_weights(config: Path, seed: int = 0) -> HandedOver:
    """Random weights for everything that `config` describes, with its own noise schedule."""
    plan = blueprint(config)
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in plan.shapes.items()}
    return HandedOver({**drawn, **plan.schedule}, f"full_{seed}")


def base_of(weights: dict[str, Tensor]) -> HandedOver:
    """The Stable Diffusion in them."""
    return HandedOver({name: t for name, t in weights.items() if not name.startswith(CONTROL)}, "base")


def control_of(weights: dict[str, Tensor]) -> HandedOver:
    """The ControlNet in them."""
    return HandedOver({name: t for name, t in weights.items() if name.startswith(CONTROL)}, "control")


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], ignore: frozenset[str] = frozenset()) -> None:
    """The same names, and equal tensors under them."""
    assert set(ours) - ignore == set(theirs) - ignore
    different = [n for n in ours if n not in ignore and not torch.equal(ours[n], theirs[n])]
    assert different == []
