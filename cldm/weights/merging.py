"""One set of weights from a Stable Diffusion and a ControlNet in whatever shape it comes."""

from cldm.weights.expected import Shapes, check_names, check_version, shapes_of
from cldm.weights.layouts import CONTROL, DIFFERENCE, control_weights, without_difference
from ldm.deferred import HandedOver


def merge(base: HandedOver, control: HandedOver | None, expected: Shapes, config: str) -> HandedOver:
    """The weights of a ControlLDM, complete (its noise schedule excepted) and with nothing else.

    Args:
        base: A Stable Diffusion, with or without a ControlNet.
        control: A ControlNet in any known shape, which replaces the base's; of a file with a Stable Diffusion of its
            own, the ControlNet alone is used.
        expected: Names and shapes of the ControlLDM.
        config: Where these are from, for messages.

    Raises:
        ValueError: If a file is of another version, or names or shapes are not the expected ones.
    """
    for weights in (base, control):
        if weights is not None:
            check_version(shapes_of(weights), expected, weights.source, config)
    if control is None:
        check_names(shapes_of(base), expected, base.source)
        return base
    merged = {name: tensor for name, tensor in base.items() if not name.startswith(CONTROL)}
    check_names(shapes_of(merged), _part(expected, control=False), base.source)
    added = control_weights(control, expected, control.source)
    check_names(shapes_of(added), _part(expected, control=True), control.source, optional=[DIFFERENCE])
    return HandedOver({**merged, **without_difference(added, merged)}, f"{base.source} with {control.source}")


def _part(expected: Shapes, control: bool) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in expected.items() if name.startswith(CONTROL) == control}
