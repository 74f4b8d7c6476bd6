"""Whether weights are what a model expects, and clear words where they are not."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ldm.models.diffusion.schedule import schedule_buffers

Shapes = Mapping[str, tuple[int, ...]]

POSITION_IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
"""A buffer 0, 1, ... that older files and programs have, and newer ones do not."""

SCHEDULE = frozenset(schedule_buffers(np.array([0.5])))
"""Names of the noise schedule, which follows from the config where a file lacks it."""

_HINT = "control_model.input_hint_block.0.weight"  # (16, hint_channels, 3, 3)
_VERSIONS = {"sd15": 768, "sd21": 1024, "sdxl": 2048}
_TITLES = {"sd15": "Stable Diffusion 1", "sd21": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}
_CONFIGS = {
    "sd15": "models/cldm_v15.yaml (tool_add_control.py)",
    "sd21": "models/cldm_v21.yaml (tool_add_control_sd21.py)",
}
_CONTEXT_PROJECTION = ".attn2.to_k.weight"


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def with_position_ids(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, and `POSITION_IDS` where they have the text model that it belongs to."""
    embedding = tensors.get(POSITION_IDS.replace("position_ids", "position_embedding.weight"))
    if embedding is None:
        return dict(tensors)
    return {**tensors, POSITION_IDS: torch.arange(len(embedding))[None]}


def context_width(shapes: Shapes) -> int | None:
    """Channels of the prompt's tokens that the U-Net or ControlNet attends to; None if it attends to none."""
    widths = (shape[1] for name, shape in shapes.items() if name.endswith(_CONTEXT_PROJECTION) and len(shape) == 2)
    return next(widths, None)


def detect_version(shapes: Shapes) -> str:
    """ "sd15", "sd21" or "sdxl", told from the prompt's width, or "other"."""
    width = context_width(shapes)
    return next((version for version, its_width in _VERSIONS.items() if its_width == width), "other")


def describe_version(shapes: Shapes) -> str:
    """The version in words, such as "Stable Diffusion 1 (prompt tokens of width 768)"."""
    width = context_width(shapes)
    if width is None:
        return "no Stable Diffusion (nothing attends to a prompt)"
    title = _TITLES.get(detect_version(shapes), "another model")
    return f"{title} (prompt tokens of width {width})"


def check_version(given: Shapes, expected: Shapes, source: str, config: str) -> None:
    """Compare the versions of weights and model.

    Raises:
        ValueError: If they differ; names both, and the config to use.
    """
    if context_width(given) in (None, context_width(expected)):
        return
    version = detect_version(given)
    advice = f"use {_CONFIGS.get(version, 'the config that belongs to it')}, or another file"
    if version == "sdxl":
        advice = "Stable Diffusion XL is not supported: give a Stable Diffusion 1 or 2 file"
    raise ValueError(
        f"{source} has weights of {describe_version(given)}, but {config} describes {describe_version(expected)}; "
        f"{advice}"
    )


def check_names(given: Shapes, expected: Shapes, source: str, optional: Sequence[str] = (POSITION_IDS,)) -> None:
    """Compare names and shapes.

    Args:
        given: Of the weights.
        expected: Of the model; the noise schedule need not be given.
        source: Where the weights are from.
        optional: Names that the weights may have though the model has not.

    Raises:
        ValueError: If a name is missing or unexpected or has another shape; says which, and what that looks like.
    """
    missing = [name for name in expected if name not in given and name not in SCHEDULE]
    unexpected = [name for name in given if name not in expected and name not in optional]
    reshaped = [
        f"{name} {given[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in given and given[name] != shape
    ]
    found = [
        _some("missing", missing, f"of {len(expected)}"),
        _some("unexpected", unexpected, f"of {len(given)}"),
        _some("of another shape", reshaped, f"of {len(expected)}"),
    ]
    if any(found):
        found = [words for words in found if words]
        advice = _advice(missing, unexpected)
        if not missing and not unexpected and given.get(_HINT) != expected.get(_HINT):
            advice = f"It has hint_channels {given[_HINT][1]}, the config {expected[_HINT][1]}: use the one it had"
        raise ValueError(f"{source} is not what the model expects: {'; '.join(found)}. {advice}")


def _some(what: str, names: Sequence[str], total: str, limit: int = 3) -> str:
    if not names:
        return ""
    more = f", ... ({len(names)} {total})" if len(names) > limit else ""
    return f"{what}: {', '.join(names[:limit])}{more}"


def _advice(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    parts = {name.split(".")[0] for name in missing}
    if parts == {"control_model"} and not unexpected:
        return (
            "It has no ControlNet: give one after it (`--checkpoint BASE CONTROL`), or, to train, add a new one with "
            "`python tool_add_control.py IN OUT`"
        )
    if {"model", "first_stage_model"} <= parts:
        return (
            "It lacks the Stable Diffusion that it belongs to: give that file before it (`--checkpoint BASE CONTROL`)"
        )
    return "Check that the file and the config (models/*.yaml) belong together"
