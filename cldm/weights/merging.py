"""One set of weights from a Stable Diffusion and a ControlNet in whatever shape it comes."""

from torch import Tensor

from cldm.weights.blueprint import Blueprint
from cldm.weights.expected import check_names, check_version, shapes_of
from cldm.weights.layouts import CONTROL, DIFFERENCE, UNET, control_weights, without_difference
from ldm.deferred import HandedOver

_DECODER = (f"{UNET}output_blocks.", f"{UNET}out.")


def merge(base: HandedOver, control: HandedOver | None, blueprint: Blueprint) -> HandedOver:
    """The weights of a ControlLDM, complete (its noise schedule excepted) and with nothing else.

    Args:
        base: A Stable Diffusion, with or without a ControlNet; it may lack of the text encoder what has no effect, see
            `Blueprint.completed`.
        control: A ControlNet in any known shape, which replaces the base's; of a file with a Stable Diffusion of its
            own, the ControlNet alone is used; of one that has a U-Net's decoder and no more, as training with
            `sd_locked=False` saves it, the decoder replaces the base's.
        blueprint: Of the ControlLDM.

    Raises:
        ValueError: If a file is of another version, or names or shapes are not the expected ones.
    """
    for weights in (base, control):
        if weights is not None:
            check_version(shapes_of(weights), blueprint.shapes, weights.source, blueprint.config)
    base = blueprint.completed(base)
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
    """The U-Net's decoder if it was saved beside the ControlNet that it was trained with, or nothing.

    Args:
        control: A file of a ControlNet.
        blueprint: Of the ControlLDM.

    Raises:
        ValueError: If it is half a decoder.
    """
    saved = {name: tensor for name, tensor in control.items() if name.startswith(UNET)}
    if not saved or not all(name.startswith(_DECODER) for name in saved):
        return {}
    expected = {name: shape for name, shape in blueprint.base.items() if name.startswith(_DECODER)}
    check_names(shapes_of(saved), expected, control.source)
    return saved
