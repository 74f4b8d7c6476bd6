"""Training from encoders' outputs that were computed once.

A folder, named by all that they depend on, has the posteriors of all images, as mean and log-variance, so that each
step still samples them afresh, and the tokens of all distinct prompts, the empty one first. All is in float32: at
512x512 pixels 131 kB an image, and in Stable Diffusion 1.5 237 kB a prompt. What a killed process has not finished,
the next one goes on with. Folders of other data or weights are not used again and may be removed at any time.

Images and prompts are encoded one by one: in float32, training with batches of one sample has the very same losses with
and without a cache; those of larger batches differ by rounding alone.
"""

import copy
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from cldm.cache.key import dependencies, key_of
from cldm.cache.shards import Shards
from cldm.cache.stand_ins import CachedTexts, DecoderOnDemand
from cldm.cldm import ControlLDM
from cldm.data.reading import Reading
from cldm.data.watch import Board, begun, explained, names_of
from cldm.launched import leave
from cldm.model import read_config
from cldm.weights.saving import written_whole
from ldm.models.autoencoder import AutoencoderKL
from ldm.models.diffusion.ddpm import MOMENTS
from ldm.util import choose_device


class CachedDataset:
    """A dataset whose items have cached posteriors (2c, h, w) instead of images.

    Args:
        dataset: Its items are dictionaries, an image among the values.
        image_key: Of the image, which is left out.
        moments: A posterior's mean and log-variance, for each item.
    """

    def __init__(self, dataset: Any, image_key: str, moments: Shards):
        self.dataset = dataset
        self.image_key = image_key
        self.moments = moments

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {name: value for name, value in self.dataset[index].items() if name != self.image_key}
        return {**item, MOMENTS: self.moments[index]}


def use_cache(
    model: ControlLDM,
    dataset: Any,
    folder: str | Path | bool,
    config: str | Path,
    load: Callable[[], ControlLDM],
    device: str = "auto",
    num_workers: int = 0,
    timeout: float = 0,
) -> CachedDataset:
    """Fill the cache as far as it is not, and take both encoders out of the model.

    Afterwards the model trains on the returned dataset. To decode, for an image log, it loads its autoencoder anew
    each time.

    Args:
        model: Freshly loaded; it is changed.
        dataset: With `rows`, as `tutorial_dataset.MyDataset` has; the same item at each reading. If its
            `images` is True, as there, images are not decoded again once they are in the cache.
        folder: Of all caches; True for the folder cache/ beside the dataset's prompt.json.
        config: The model's yaml.
        load: Loads the model once more, for its autoencoder.
        device: To encode on.
        num_workers: Processes that read images meanwhile.
        timeout: Seconds to wait for them; 0 waits for ever.

    Raises:
        ValueError: If the dataset has no rows, or an item changes from one reading to the next.
        DataError: If an item cannot be read; names it.
        WorkerFailure: If a process that reads dies, or gives nothing in time; names what it was at.
    """
    if not getattr(dataset, "rows", None):
        raise ValueError(
            "a cache needs a dataset with rows, as tutorial_dataset.MyDataset has; train with cache=false, or give "
            "yours an attribute `rows` of cldm.data.Row"
        )
    above = dataset.rows[0].file.parent / "cache" if folder is True else Path(folder)
    depends_on = dependencies(model, read_config(config), dataset)
    here = above.expanduser() / key_of(depends_on)
    here.mkdir(parents=True, exist_ok=True)
    _describe(here / "about.json", depends_on)

    prompts = list(dict.fromkeys(["", *(row.prompt for row in dataset.rows)]))
    moments, tokens = Shards(here, "latents", len(dataset)), Shards(here, "texts", len(prompts))
    encode_on = choose_device(device)
    tokens.fill(partial(_encode_texts, model, prompts, encode_on), partial(_progress, what="Caching prompts"))
    reading = Reading(num_workers, timeout, Board(num_workers, names_of(dataset)))
    with explained(reading.board):
        encode = partial(_encode_images, model, dataset, encode_on, reading)
        moments.fill(encode, partial(_progress, what="Caching latents"))

    model.cond_stage_model = CachedTexts({prompt: place for place, prompt in enumerate(prompts)}, tokens)
    model.first_stage_model = DecoderOnDemand(partial(_autoencoder, load))
    leave(encode_on)
    return CachedDataset(_without_images(dataset, model.first_stage_key), model.first_stage_key, moments)


def _without_images(dataset: Any, image_key: str) -> Any:
    """The dataset with its images left undecoded, if it can do so and its other values are the same then."""
    if getattr(dataset, "images", None) is not True or not len(dataset):
        return dataset
    without = copy.copy(dataset)
    without.images = False
    whole = dataset[0]
    try:
        rest = without[0]
    except KeyError:  # one's own change makes something of the image
        return dataset
    expected = whole.keys() - {image_key}
    return without if rest.keys() == expected and all(np.array_equal(rest[k], whole[k]) for k in expected) else dataset


@torch.no_grad()
def _encode_texts(model: ControlLDM, prompts: list[str], device: torch.device, numbers: list[int]) -> Iterator[Tensor]:
    encoder = model.cond_stage_model.to(device)
    for number in numbers:
        yield encoder([prompts[number]])[0].float().cpu()


@torch.no_grad()
def _encode_images(
    model: ControlLDM, dataset: Any, device: torch.device, reading: Reading, numbers: list[int]
) -> Iterator[Tensor]:
    autoencoder = model.first_stage_model.to(device)
    loader = DataLoader(reading.watched(dataset), sampler=numbers, batch_size=None, **reading.options())
    for item in begun(reading.board, loader.__iter__):
        pixels = rearrange(item[model.first_stage_key][None], "b h w c -> b c h w")
        posterior = autoencoder.encode(pixels.to(device))
        yield torch.cat([posterior.mean, posterior.logvar], dim=1)[0].float().cpu()


def _autoencoder(load: Callable[[], ControlLDM]) -> AutoencoderKL:
    return load().first_stage_model


def _progress(shards: list[int], what: str) -> tqdm:
    return tqdm(shards, desc=what, unit="shard", disable=not shards)


def _describe(file: Path, depends_on: dict[str, Any]) -> None:
    """Write for people what this cache is of."""
    if not file.exists():
        with written_whole(file, replace=True) as unfinished:
            unfinished.write_text(json.dumps(depends_on, indent=2))
