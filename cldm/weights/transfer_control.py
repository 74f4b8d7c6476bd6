"""A ControlNet carried over from the Stable Diffusion it was trained on to another one of the same version."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cldm.weights.blueprint import Blueprint
from cldm.weights.expected import SCHEDULE, check_names, check_version, shapes_of, with_position_ids
from cldm.weights.layouts import is_whole, unet_twin
from cldm.weights.merging import merge
from cldm.weights.precision import halved
from ldm.deferred import HandedOver

_FROM_NEW_BASE = ("first_stage_model.", "cond_stage_model.")


@dataclass(frozen=True)
class Transferred:
    """The new base with the ControlNet, and how many tensors were made how.

    Attributes:
        weights: All tensors of a ControlLDM.
        copied: From the new base.
        moved: Changed by the difference of the two bases.
        kept: As they were.
    """

    weights: dict[str, Tensor]
    copied: int
    moved: int
    kept: int


def transfer_control(
    base: HandedOver, controlled: HandedOver, new_base: HandedOver, blueprint: Blueprint, half: bool = False
) -> Transferred:
    """Add to every weight of a controlled model what distinguishes a new base from the old one.

    Args:
        base: The Stable Diffusion that the ControlNet was trained on; as in `merge`, what has no effect may be missing.
        controlled: This with the ControlNet, or the ControlNet in any known shape, alone or with a tuned decoder.
        new_base: The Stable Diffusion to control; likewise.
        blueprint: Of the ControlLDM.
        half: Whether to make float16 of the weights as they are computed, the noise schedule excepted.

    Raises:
        ValueError: If a file is of another version, or lacks something.
    """
    old, new = (_base_part(weights, blueprint) for weights in (base, new_base))
    whole = merge(controlled, None, blueprint) if is_whole(controlled) else merge(old, controlled, blueprint)
    weights, counts = {}, {"copied": 0, "moved": 0, "kept": 0}
    for name, tensor in with_position_ids({**blueprint.schedule, **whole}).items():
        twin = unet_twin(name)
        if name.startswith(_FROM_NEW_BASE):
            result, how = new.get(name, tensor), "copied"
        elif twin in old and twin in new and name not in SCHEDULE:
            result, how = _moved(tensor, old[twin], new[twin]), "moved"
        else:
            result, how = tensor, "kept"
        counts[how] += 1
        weights[name] = halved(name, result) if half else result
    return Transferred(weights, **counts)


def _base_part(weights: HandedOver, blueprint: Blueprint) -> HandedOver:
    """What a ControlLDM takes of a Stable Diffusion, after checking that all of it is there."""
    check_version(shapes_of(weights), blueprint.shapes, weights.source, blueprint.config)
    part = {name: tensor for name, tensor in blueprint.completed(weights).items() if name in blueprint.base}
    check_names(shapes_of(part), blueprint.base, weights.source)
    return HandedOver(part, weights.source)


def _moved(tensor: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """tensor + new - old in float64, so that nothing is lost where two of them are equal."""
    dtype = torch.promote_types(tensor.dtype, torch.promote_types(old.dtype, new.dtype))
    return (tensor.double() + new.double() - old.double()).to(dtype)
