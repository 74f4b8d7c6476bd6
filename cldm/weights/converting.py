"""A ControlNet from any shape that it is published in to the one that a program expects, on tensors alone."""

from collections.abc import Mapping

from torch import Tensor

from cldm.weights.blueprint import Blueprint
from cldm.weights.diffusers_names import diffusers_names
from cldm.weights.expected import check_names, check_version, shapes_of, with_position_ids
from cldm.weights.layouts import CONTROL, DIFFERENCE, control_weights, is_whole, without_difference
from cldm.weights.merging import merge, tuned_decoder
from ldm.deferred import HandedOver


def to_ldm(given: HandedOver, base: HandedOver | None, blueprint: Blueprint) -> dict[str, Tensor]:
    """Everything: the Stable Diffusion with the ControlNet, as training and older programs load it strictly.

    Args:
        given: This already, or a ControlNet in any known shape.
        base: The Stable Diffusion to put a ControlNet onto; needed where `given` has none.
        blueprint: Of the ControlLDM.

    Raises:
        ValueError: If a base is needed and not given, or something is of another version, missing or unexpected.
    """
    if base is None and not is_whole(given):
        raise ValueError(f"{given.source} is no full checkpoint; give the Stable Diffusion to put it onto with --base")
    whole = merge(given, None, blueprint) if base is None else merge(base, given, blueprint)
    return with_position_ids({**blueprint.schedule, **whole})


def to_control(given: HandedOver, base: HandedOver | None, blueprint: Blueprint) -> dict[str, Tensor]:
    """The ControlNet alone under the names `control_model.*`, and a decoder that was saved with it.

    Args:
        given: A ControlNet in any known shape.
        base: The Stable Diffusion that a difference was taken to; needed for such a file only.
        blueprint: Of the ControlLDM.

    Raises:
        ValueError: If a base is needed and not given, or something is of another version, missing or unexpected.
    """
    for weights in (given, base):
        if weights is not None:
            check_version(shapes_of(weights), blueprint.shapes, weights.source, blueprint.config)
    control = control_weights(given, blueprint.shapes, given.source)
    check_names(shapes_of(control), blueprint.control, given.source, optional=[DIFFERENCE])
    if DIFFERENCE in control:
        if base is None:
            raise ValueError(f"{given.source} is stored as the difference to a Stable Diffusion; give that with --base")
        plain = {name: tensor for name, tensor in blueprint.completed(base).items() if name in blueprint.base}
        check_names(shapes_of(plain), blueprint.base, base.source)
        control = without_difference(control, plain)
    return {**{name: control[name] for name in blueprint.control}, **tuned_decoder(given, blueprint)}


def to_diffusers(control: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ControlNet alone in diffusers' names, which have no place for a decoder.

    Args:
        control: From `to_control`.
    """
    ours = [name.removeprefix(CONTROL) for name in control if name.startswith(CONTROL)]
    return {theirs: control[CONTROL + name] for name, theirs in diffusers_names(ours).items()}
