"""What a cache depends on, as one short text: where anything of it changes, another cache is used."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cldm.cldm import ControlLDM
from cldm.data import Framing, Row

FORMAT = 1  # of the files; to be raised with any change of what is in them
_PROBES = 4  # items whose pixels are part of the key


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of a module's weights with their names, shapes and precisions."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return memoryview(flat.view(dtype=torch.uint8).numpy())


def rows_hash(rows: Sequence[Row]) -> str:
    """SHA-256 of all prompts and of every target's name, size and time of change; no image is read.

    Raises:
        FileNotFoundError: If a target is missing.
    """
    digest = hashlib.sha256()
    for row in rows:
        try:
            state = row.target.stat()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{row}: no image at {row.target}") from error
        name = row.name_in_folder(row.target)
        digest.update(json.dumps([name, state.st_size, state.st_mtime_ns, row.prompt]).encode())
    return digest.hexdigest()


def items_hash(dataset: Sequence[Mapping[str, Any]], image_key: str) -> str:
    """SHA-256 of a few items' images as the dataset makes them, which its code decides, not its files alone.

    Raises:
        ValueError: If an item is not the same at each reading: a cache would freeze what is to change.
    """
    digest = hashlib.sha256()
    for index in sorted({int(i) for i in np.linspace(0, len(dataset) - 1, _PROBES)}):
        pixels = np.ascontiguousarray(dataset[index][image_key])
        if not np.array_equal(pixels, dataset[index][image_key]):
            raise ValueError(
                f"item {index} is another image at each reading, as with random crops or flips; a cache keeps one. "
                "Take these out of the dataset, or train with cache=false"
            )
        digest.update(f"{index} {pixels.shape} {pixels.dtype}\n".encode())
        digest.update(pixels)
    return digest.hexdigest()


def dependencies(model: ControlLDM, config: Mapping[str, Any], dataset: Any) -> dict[str, Any]:
    """All that a cache's content follows from.

    Args:
        model: With both encoders.
        config: The "model" part of its yaml.
        dataset: With `rows`, as `tutorial_dataset.MyDataset` has.
    """
    autoencoder = nn.ModuleDict({name: getattr(model.first_stage_model, name) for name in ("encoder", "quant_conv")})
    return {
        "format": FORMAT,
        "autoencoder": weights_hash(autoencoder),
        "text_encoder": weights_hash(model.cond_stage_model),
        "configs": {name: config["params"][name] for name in ("first_stage_config", "cond_stage_config")},
        "samples": len(dataset),
        "rows": rows_hash(dataset.rows),
        "items": items_hash(dataset, model.first_stage_key),
        **_framing(dataset),
    }


def _framing(dataset: Any) -> dict[str, str]:
    """How images are brought to a size; nothing where they are taken as they are."""
    framing = getattr(dataset, "framing", Framing())
    return {} if framing == Framing() else {"framing": str(framing)}


def key_of(depends_on: Mapping[str, Any]) -> str:
    """20 letters and digits that stand for all of it."""
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:20]
