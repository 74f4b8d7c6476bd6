"""A new ControlNet for a Stable Diffusion, on tensors alone (arXiv:2302.05543, section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cldm.cldm import hint_encoder
from cldm.weights.blueprint import Blueprint
from cldm.weights.expected import POSITION_IDS, Shapes, check_names, check_version, shapes_of, with_position_ids
from cldm.weights.layouts import CONTROL, unet_twin
from ldm.deferred import HandedOver

_HINT_ENCODER = f"{CONTROL}input_hint_block."
_ZERO_CONVOLUTIONS = (f"{CONTROL}zero_convs.", f"{CONTROL}middle_block_out.")


@dataclass(frozen=True)
class Added:
    """A Stable Diffusion with a new ControlNet, and where each tensor is from, by names.

    Attributes:
        weights: All tensors of a ControlLDM.
        copied: From the base.
        control: Copied once more from the base's U-Net, into the ControlNet.
        new: Initialised: the hint encoder and the zero convolutions.
        missing: Not in the base's file, so taken from the configuration; zero where it has no effect.
        left_out: In the base's file, and without a place in the model.
    """

    weights: dict[str, Tensor]
    copied: Sequence[str]
    control: Sequence[str]
    new: Sequence[str]
    missing: Sequence[str]
    left_out: Sequence[str]


def add_control(base: HandedOver, blueprint: Blueprint, seed: int = 0) -> Added:
    """Attach a ControlNet that at first changes nothing: a copy of the encoder behind zero convolutions.

    Args:
        base: A Stable Diffusion; the result shares its memory. As in `merge`, what has no effect may be missing.
        blueprint: Of the ControlLDM.
        seed: Of the hint encoder's values.

    Raises:
        ValueError: If the base has a ControlNet, is of another version, or lacks something that must be copied.
    """
    if any(name.startswith(CONTROL) for name in base):
        raise ValueError(f"{base.source} has a ControlNet already ({CONTROL}*); give a Stable Diffusion without one")
    check_version(shapes_of(base), blueprint.shapes, base.source, blueprint.config)
    copied = {name: tensor for name, tensor in base.items() if name in blueprint.base or name == POSITION_IDS}
    complete = blueprint.completed(HandedOver(copied, base.source))
    check_names(shapes_of(complete), blueprint.base, base.source)
    twins = {name: base[twin] for name in blueprint.control if (twin := unet_twin(name)) in base}
    new = _new_parts({name: shape for name, shape in blueprint.control.items() if name not in twins}, seed)
    weights = with_position_ids({**blueprint.schedule, **complete, **twins, **new})
    check_names(shapes_of(weights), blueprint.shapes, f"the ControlNet for {base.source}")
    return Added(
        weights=weights,
        copied=list(copied),
        control=list(twins),
        new=list(new),
        missing=[name for name in weights if name not in copied and name not in blueprint.control],
        left_out=[name for name in base if name not in copied],
    )


def _new_parts(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """What no U-Net has, in a ControlNet's order."""
    first, *_, last = (shape for name, shape in shapes.items() if name.startswith(_HINT_ENCODER) and len(shape) == 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = hint_encoder(hint_channels=first[1], out_channels=last[0]).state_dict()
    new = {_HINT_ENCODER + name: tensor for name, tensor in encoder.items()}
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items() if name.startswith(_ZERO_CONVOLUTIONS)}
    return {**new, **zeros}
