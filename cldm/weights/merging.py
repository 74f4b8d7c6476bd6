"""One set of weights from a Stable Diffusion and a ControlNet in whatever shape it comes."""

import warnings

from torch import Tensor

from cldm.weights.blueprint import Blueprint
from cldm.weights.expected import POSITION_IDS, SCHEDULE, check_names, check_version, shapes_of
from cldm.weights.layouts import CONTROL, DIFFERENCE, UNET, control_weights, is_whole, without_difference
from cldm.weights.reading import told_by_run
from ldm.deferred import HandedOver

_DECODER = (f"{UNET}output_blocks.", f"{UNET}out.")
_SHOWN = 3  # names in a warning


def merge(base: HandedOver, control: HandedOver | None, blueprint: Blueprint) -> HandedOver:
    """The weights of a ControlLDM, complete (its noise schedule excepted) and with nothing else.

    Args:
        base: A Stable Diffusion, with or without a ControlNet; it may lack of the text encoder what has no effect, see
            `Blueprint.completed`, and have what has no place outside the U-Net, which is left out with a warning.
        control: A ControlNet in any known shape, which replaces the base's; of a file with a Stable Diffusion of its
            own, the ControlNet alone is used; a U-Net's decoder that was trained with it replaces the base's, see
            `tuned_decoder`.
        blueprint: Of the ControlLDM.

    Raises:
        ValueError: If a file is of another version, or names or shapes are not the expected ones.
    """
    for weights in (base, control):
        if weights is not None:
            check_version(shapes_of(weights), blueprint.shapes, weights.source, blueprint.config)
    base = _without_surplus(blueprint.completed(base), blueprint)
    if control is None:
        check_names(shapes_of(base), blueprint.shapes, base.source)
        return base
    plain = {name: tensor for name, tensor in base.items() if not name.startswith(CONTROL)}
    check_names(shapes_of(plain), blueprint.base, base.source)
    merged = {**plain, **tuned_decoder(control, blueprint)}
    added = control_weights(control, blueprint.shapes, control.source)
    check_names(shapes_of(added), blueprint.control, control.source, optional=[DIFFERENCE])
    return HandedOver({**merged, **without_difference(added, merged)}, f"{base.source} with {control.source}")


def tuned_decoder(control: HandedOver, blueprint: Blueprint) -> dict[str, Tensor]:
    """The U-Net's decoder if it was trained with the ControlNet, with `sd_locked=False`, or nothing.

    Args:
        control: A file of a ControlNet: with a decoder and no more of a U-Net, or a whole one whose header says so.
        blueprint: Of the ControlLDM.

    Raises:
        ValueError: If it is half a decoder.
    """
    saved = {name: tensor for name, tensor in control.items() if name.startswith(UNET)}
    if is_whole(saved) and told_by_run(control.metadata, "settings").get("sd_locked") is False:
        saved = {name: tensor for name, tensor in saved.items() if name.startswith(_DECODER)}
    if not saved or not all(name.startswith(_DECODER) for name in saved):
        return {}
    expected = {name: shape for name, shape in blueprint.base.items() if name.startswith(_DECODER)}
    check_names(shapes_of(saved), expected, control.source)
    return saved


def _without_surplus(base: HandedOver, blueprint: Blueprint) -> HandedOver:
    """A complete Stable Diffusion without what merges and training leave beside it, such as a loss."""
    surplus = [
        name
        for name in base
        if name not in blueprint.shapes and name != POSITION_IDS and not name.startswith((CONTROL, UNET))
    ]
    if not surplus or any(name not in base for name in blueprint.base if name not in SCHEDULE):
        return base  # something else altogether: the error is to name everything
    more = f", ... ({len(surplus)})" if len(surplus) > _SHOWN else ""
    warnings.warn(
        f"left out of {base.source}, without a place in the model: {', '.join(surplus[:_SHOWN])}{more}", stacklevel=3
    )
    kept = {name: tensor for name, tensor in base.items() if name not in set(surplus)}
    return HandedOver(kept, base.source, base.metadata)
