"""What a run saves for use: the trained ControlNet, the whole model, the tuned base, each with where it is from."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from cldm.cldm import ControlLDM
from cldm.data.shards import last_name
from cldm.model import read_config
from cldm.training.settings import Settings
from cldm.training.starting import Start
from cldm.weights.expected import SCHEDULE, with_position_ids
from cldm.weights.layouts import CONTROL, UNET

_OF_THE_PLACE = ("output", "resume")
"""Settings that say where a run is, not what it is: a file's bytes do not depend on them."""

_PATHS = ("config", "resume_path", "base", "control", "dataset", "cache", "validation")
"""Of these, the last name alone is told: a published file need not show its author's folders."""


def trained_weights(model: ControlLDM) -> dict[str, Tensor]:
    """The ControlNet's tensors, and with `sd_locked` False those of the U-Net's decoder, by their published names."""
    weights = {f"{CONTROL}{name}": tensor for name, tensor in model.control_model.state_dict().items()}
    if not model.sd_locked:
        unet = model.model.diffusion_model.state_dict()
        weights |= {f"{UNET}{name}": t for name, t in unet.items() if name.startswith(("output_blocks.", "out."))}
    return weights


def whole_model(model: ControlLDM, start: Start) -> dict[str, Tensor]:
    """All tensors of the model as the run started, with the trained ones as they are now."""
    return with_position_ids({**start.weights(), **trained_weights(model)})


def tuned_base(model: ControlLDM, start: Start) -> dict[str, Tensor]:
    """The Stable Diffusion of a run with `sd_locked` False, without its ControlNet."""
    return {name: tensor for name, tensor in whole_model(model, start).items() if not name.startswith(CONTROL)}


def in_save_precision(weights: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """The weights in float32, float16 or bfloat16; a noise schedule and whole numbers stay as they are.

    Args:
        weights: By name.
        precision: One of `cldm.training.settings.SAVE_PRECISIONS`.
    """
    dtype = getattr(torch, precision)
    kept = {name for name, tensor in weights.items() if name in SCHEDULE or not tensor.is_floating_point()}
    return {name: tensor if name in kept else tensor.to(dtype) for name, tensor in weights.items()}


def description(settings: Settings, base: str, step: int, epoch: int, **more: Any) -> dict[str, str]:
    """What the header of a saved file says.

    Args:
        settings: Of the run.
        base: SHA-256 of the weights of the U-Net that the run started on; see `cldm.cache.key.weights_hash`.
        step: At which it is saved.
        epoch: The same, from 0.
        more: Further figures.
    """
    values = {name: value for name, value in asdict(settings).items() if name not in _OF_THE_PLACE}
    values |= {name: last_name(values[name]) for name in _PATHS if isinstance(values[name], str)}
    return {
        "step": str(step),
        "epoch": str(epoch),
        "base_unet_sha256": base,
        "config": json.dumps(read_config(settings.config), sort_keys=True),
        "settings": json.dumps(values, sort_keys=True),
        **{name: json.dumps(value) for name, value in more.items()},
    }
