"""The shapes that ControlNets are published in, turned into `control_model.*` names."""

from collections.abc import Mapping

from torch import Tensor

from cldm.weights.diffusers_names import diffusers_names
from cldm.weights.expected import POSITION_IDS, Shapes

CONTROL = "control_model."
UNET = "model.diffusion_model."
DIFFERENCE = "difference"
"""A tensor of this name says that weights copied from a U-Net are stored minus that U-Net's."""


def is_whole(weights: Mapping[str, Tensor]) -> bool:
    """Whether there is a whole U-Net, so that this is a Stable Diffusion with or without a ControlNet."""
    return any(name.startswith(f"{UNET}input_blocks.") for name in weights)


def control_weights(weights: Mapping[str, Tensor], expected: Shapes, source: str) -> dict[str, Tensor]:
    """The ControlNet in a file, under the names of a ControlLDM.

    Args:
        weights: Of a whole ControlLDM, whatever else is with it, of a ControlNet with or without the prefix
            `control_model.`, or in diffusers' names; each of them possibly a difference, which is kept.
        expected: Names and shapes of the ControlLDM; 1x1 convolutions and linear layers are turned into one another.
        source: The file's name, for messages.

    Raises:
        ValueError: If it is none of these.
    """
    if "lora_controlnet" in weights or any(name.endswith((".up", ".down")) for name in weights):
        raise ValueError(f"{source} is a Control-LoRA, which is not supported: give a whole ControlNet")
    if is_whole(weights) and any(name.startswith(CONTROL) for name in weights):
        named = {name: tensor for name, tensor in weights.items() if name.startswith(CONTROL) or name == DIFFERENCE}
    elif any(name.startswith(CONTROL) for name in weights):
        of_base = {name for name in expected if not name.startswith(CONTROL)} | {POSITION_IDS}
        named = {name: tensor for name, tensor in weights.items() if name not in of_base}
    elif "input_hint_block.0.weight" in weights:
        named = {_prefixed(name): tensor for name, tensor in weights.items()}
    elif "controlnet_cond_embedding.conv_in.weight" in weights:
        ours = {theirs: CONTROL + name for name, theirs in _diffusers_names(expected).items()}
        named = {ours.get(name, name): tensor for name, tensor in weights.items()}
    else:
        found = ", ".join(list(weights)[:3])
        raise ValueError(
            f"{source} has no known shape of ControlNet: expected names such as {CONTROL}input_hint_block.0.weight, "
            f"the same without {CONTROL}, or diffusers' controlnet_cond_embedding.conv_in.weight; it has {found}, ..."
        )
    return {name: _projection(tensor, expected.get(name)) for name, tensor in named.items()}


def unet_twin(name: str) -> str:
    """The U-Net's name of what a ControlNet copies; the name itself for all other tensors."""
    return UNET + name.removeprefix(CONTROL) if name.startswith(CONTROL) else name


def without_difference(control: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ControlNet itself; where it is stored as the difference to a U-Net, `base`'s is added."""
    if DIFFERENCE not in control:
        return dict(control)
    whole = {}
    for name, tensor in control.items():
        twin = base.get(unet_twin(name))
        if name != DIFFERENCE:
            whole[name] = tensor if twin is None or twin.shape != tensor.shape else tensor.float() + twin.float()
    return whole


def _prefixed(name: str) -> str:
    return name if name == DIFFERENCE else CONTROL + name


def _diffusers_names(expected: Shapes) -> dict[str, str]:
    return diffusers_names([name.removeprefix(CONTROL) for name in expected if name.startswith(CONTROL)])


def _projection(tensor: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    """A linear layer's matrix as a 1x1 convolution's kernel or the other way round, where that is what is expected."""
    if shape is None or tuple(tensor.shape) == shape:
        return tensor
    is_same = tensor.shape[:2] == shape[:2] and all(side == 1 for side in (*tensor.shape[2:], *shape[2:]))
    return tensor.reshape(shape) if is_same and tensor.ndim >= 2 else tensor
