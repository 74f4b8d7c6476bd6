"""Weights in half precision, except where that would do harm."""

from collections.abc import Mapping

import torch
from torch import Tensor

from cldm.weights.expected import SCHEDULE
from ldm.deferred import HandedOver

_AUTOENCODER = "first_stage_model."


def in_precision(weights: Mapping[str, Tensor], dtype: torch.dtype) -> HandedOver:
    """The weights as a model computes with them.

    Args:
        weights: Of a ControlLDM.
        dtype: Of the networks. The noise schedule is always in float32; so is the autoencoder where `dtype` is
            float16, in which it overflows.
    """
    converted = {}
    for name, tensor in weights.items():
        keeps = name in SCHEDULE or (dtype == torch.float16 and name.startswith(_AUTOENCODER))
        wanted = torch.float32 if keeps else dtype
        converted[name] = tensor.to(wanted) if tensor.is_floating_point() else tensor
    return HandedOver(converted, getattr(weights, "source", "the given weights"))


def halved(name: str, tensor: Tensor) -> Tensor:
    """A tensor as it is stored in half the space: float16, unless it belongs to the noise schedule."""
    return tensor.half() if tensor.is_floating_point() and name not in SCHEDULE else tensor
