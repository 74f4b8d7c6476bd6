"""The pairs of hint and target that a run is judged by: kept from training, encoded once, and the same every time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import IterableDataset, Subset

from cldm.cldm import ControlLDM
from cldm.launched import leave, own_device
from cldm.training.loading import Stream
from cldm.training.settings import HELD_OUT, Settings

_LARGEST_SHARE = 20  # at most one in so many samples is held out


@dataclass(frozen=True)
class Pair:
    """A pair with all that is computed of it once, on the CPU.

    Attributes:
        hint: Control image, (1, c, H, W) in [0, 1].
        target: uint8 RGB, (H, W, 3).
        moments: The posterior over latents, mean and log-variance, (1, 2c, h, w).
        context: Tokens of the prompt, (1, n, width).
        no_context: Tokens of the empty prompt, likewise.
    """

    hint: Tensor
    target: np.ndarray
    moments: Tensor
    context: Tensor
    no_context: Tensor


def hold_out(dataset: Any, settings: Settings) -> list[int]:
    """The places of the samples to judge a run by, which it must not train on.

    They depend on the dataset's length and on `validation_pairs` alone, so that runs with other seeds can be compared.
    Where neighbours in a dataset are nearly the same picture, as frames of a video are, give a folder of others as
    `validation` instead; so for datasets that are read in their own order only.

    Args:
        dataset: To train on.
        settings: Of the run.
    """
    if settings.validation != HELD_OUT or not settings.validation_freq:
        return []
    count = 0 if isinstance(dataset, IterableDataset | Stream) else len(dataset)
    places = np.random.default_rng(0).permutation(count)[: min(settings.validation_pairs, count // _LARGEST_SHARE)]
    if not len(places):
        what = f"a dataset of {count} is too small" if count else "a dataset without places gives no way"
        rank_zero_warn(
            f"{what} to hold anything out, so there are no validations; give a folder with other pairs as "
            "validation=FOLDER, or validation_freq=0"
        )
    return sorted(places.tolist())


def without(dataset: Any, places: Sequence[int]) -> Any:
    """The dataset without its samples in some places, the others in their order."""
    left_out = set(places)
    return Subset(dataset, [k for k in range(len(dataset)) if k not in left_out]) if left_out else dataset


@torch.no_grad()
def encode_pairs(model: ControlLDM, dataset: Sequence[Mapping[str, Any]], settings: Settings) -> list[Pair]:
    """Up to `validation_pairs` items, spread evenly over a dataset, encoded; none without validations.

    To be called while the model has its encoders, so before a cache takes them away. No random numbers of the run are
    used up.

    Args:
        model: On the CPU.
        dataset: Its items are what the model trains on.
        settings: Of the run.
    """
    count = min(settings.validation_pairs, len(dataset)) if settings.validation_freq else 0
    if not count:
        return []
    device = own_device(settings.device, settings.devices)
    autoencoder, text_encoder = model.first_stage_model.to(device), model.cond_stage_model.to(device)
    pairs = []
    with isolate_rng(include_cuda=False):
        no_context = text_encoder([""]).float().cpu()
        for place in np.linspace(0, len(dataset) - 1, count).astype(int).tolist():
            item = dataset[place]
            pixels = rearrange(torch.as_tensor(item[model.first_stage_key])[None], "b h w c -> b c h w")
            posterior = autoencoder.encode(pixels.to(device))
            pairs.append(
                Pair(
                    hint=rearrange(torch.as_tensor(item[model.control_key])[None], "b h w c -> b c h w").contiguous(),
                    target=to_uint8(pixels),
                    moments=torch.cat([posterior.mean, posterior.logvar], dim=1).float().cpu(),
                    context=text_encoder([item[model.cond_stage_key]]).float().cpu(),
                    no_context=no_context,
                )
            )
    autoencoder.cpu(), text_encoder.cpu()
    leave(device)
    return pairs


def to_uint8(pixels: Tensor) -> np.ndarray:
    """An image (1, c, H, W) in [-1, 1] as uint8 (H, W, c); what is no number is black."""
    levels = ((pixels[0].float().nan_to_num(-1.0) + 1) * 127.5).round().clamp(0, 255)
    return rearrange(levels, "c h w -> h w c").byte().cpu().numpy()
