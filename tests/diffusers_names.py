"""What diffusers calls the modules of our networks, found by walking its network, to give both the same weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

Names = dict[str, str]
"""diffusers' module -> ours."""

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_names(theirs: Any) -> Names:
    """Of a UNet2DConditionModel; its transformers' inner names are ours."""
    names = _encoder_names(theirs)
    names |= {"conv_norm_out": "out.0", "conv_out": "out.2"}
    number = 0
    for level, block in enumerate(theirs.up_blocks):
        for place in range(len(block.resnets)):
            names |= _resnet(f"up_blocks.{level}.resnets.{place}", f"output_blocks.{number}.0")
            layers = 1
            if hasattr(block, "attentions"):
                names[f"up_blocks.{level}.attentions.{place}"] = f"output_blocks.{number}.1"
                layers = 2
            if block.upsamplers and place == len(block.resnets) - 1:
                names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number}.{layers}.conv"
            number += 1
    return names


def controlnet_names(theirs: Any) -> Names:
    """Of a ControlNetModel."""
    names = _encoder_names(theirs)
    for number in range(len(theirs.controlnet_down_blocks)):
        names[f"controlnet_down_blocks.{number}"] = f"zero_convs.{number}.0"
    names["controlnet_mid_block"] = "middle_block_out.0"
    hint = theirs.controlnet_cond_embedding
    convolutions = ["conv_in", *(f"blocks.{i}" for i in range(len(hint.blocks))), "conv_out"]
    for place, name in enumerate(convolutions):
        names[f"controlnet_cond_embedding.{name}"] = f"input_hint_block.{2 * place}"  # a SiLU stands between two
    return names


def autoencoder_names(theirs: Any) -> Names:
    """Of an AutoencoderKL."""
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    highest = len(theirs.decoder.up_blocks) - 1
    for half, blocks, part, resample in (
        ("encoder", theirs.encoder.down_blocks, "down", "downsample"),
        ("decoder", theirs.decoder.up_blocks, "up", "upsample"),
    ):
        names |= {f"{half}.{name}": f"{half}.{name}" for name in ("conv_in", "conv_out")}
        names[f"{half}.conv_norm_out"] = f"{half}.norm_out"
        for place in (0, 1):
            names |= _vae_resnet(f"{half}.mid_block.resnets.{place}", f"{half}.mid.block_{place + 1}")
        for name, our_name in _VAE_ATTENTION.items():
            names[f"{half}.mid_block.attentions.0.{name}"] = f"{half}.mid.attn_1.{our_name}"
        for level, block in enumerate(blocks):
            ours = f"{half}.{part}.{level if part == 'down' else highest - level}"
            for place in range(len(block.resnets)):
                names |= _vae_resnet(f"{half}.{part}_blocks.{level}.resnets.{place}", f"{ours}.block.{place}")
                for name, our_name in _VAE_ATTENTION.items():
                    names[f"{half}.{part}_blocks.{level}.attentions.{place}.{name}"] = f"{ours}.attn.{place}.{our_name}"
            names[f"{half}.{part}_blocks.{level}.{resample}rs.0.conv"] = f"{ours}.{resample}.conv"
    return names


@torch.no_grad()
def copy_weights(ours: nn.Module, theirs: nn.Module, names: Mapping[str, str], share: bool = False) -> None:
    """Give diffusers' network our weights: every one of its tensors, and every one of ours.

    Args:
        ours: Where they are from.
        theirs: Gets them.
        names: See `Names`.
        share: Without a copy: both then have the same memory.

    Raises:
        ValueError: If a tensor of either has no counterpart.
    """
    state = ours.state_dict()
    used, mapped = set(), {}
    for name, tensor in theirs.state_dict().items():
        module = max((m for m in names if name.startswith(f"{m}.")), key=len, default=None)
        source = None if module is None else names[module] + name.removeprefix(module)
        if source not in state:
            raise ValueError(f"our network has no counterpart of diffusers' {name}")
        used.add(source)
        mapped[name] = _as_shape(state[source], tensor)
    if unused := state.keys() - used:
        raise ValueError(f"diffusers' network has no counterpart of {sorted(unused)[:4]}")
    theirs.load_state_dict(mapped, assign=share)


def random_weights(module: nn.Module, seed: int) -> None:
    """Give every parameter, zero-initialised ones too, values that matter: N(0, 1 / fan_in), or N(1 or 0, 0.1)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            value = noise / parameter[0].numel() ** 0.5
        else:
            value = 0.1 * noise + (parameter.detach().mean() == 1) * name.endswith("weight")
        parameter.data.copy_(value)


def _encoder_names(theirs: Any) -> Names:
    names = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
    }
    number = 1
    for level, block in enumerate(theirs.down_blocks):
        for place in range(len(block.resnets)):
            names |= _resnet(f"down_blocks.{level}.resnets.{place}", f"input_blocks.{number}.0")
            names[f"down_blocks.{level}.attentions.{place}"] = f"input_blocks.{number}.1"
            number += 1
        if block.downsamplers:
            names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    names |= _resnet("mid_block.resnets.0", "middle_block.0")
    names["mid_block.attentions.0"] = "middle_block.1"
    return names | _resnet("mid_block.resnets.1", "middle_block.2")


def _resnet(theirs: str, ours: str) -> Names:
    return {f"{theirs}.{name}": f"{ours}.{our_name}" for name, our_name in RESNET.items()}


def _vae_resnet(theirs: str, ours: str) -> Names:
    same = ("norm1", "conv1", "norm2", "conv2")
    return {
        **{f"{theirs}.{name}": f"{ours}.{name}" for name in same},
        f"{theirs}.conv_shortcut": f"{ours}.nin_shortcut",
    }


def _as_shape(tensor: Tensor, like: Tensor) -> Tensor:
    """A 1x1 convolution's weight as a linear layer's where diffusers has one."""
    return tensor[:, :, 0, 0] if tensor.ndim == 4 and like.ndim == 2 else tensor
