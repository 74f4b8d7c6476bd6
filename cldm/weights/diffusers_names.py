"""How the diffusers library names the parts of a ControlNet."""

import re
from collections.abc import Sequence

_RESBLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_TIME_EMBEDDING = {"0": "time_embedding.linear_1", "2": "time_embedding.linear_2"}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}


def diffusers_names(names: Sequence[str]) -> dict[str, str]:
    """Our name -> diffusers' name.

    Args:
        names: Of a ControlNet's state dict, without prefix.
    """
    blocks = _blocks(names)
    hint_layers = sorted({int(name.split(".")[1]) for name in names if name.startswith("input_hint_block.")})
    return {name: _diffusers_name(name, blocks, hint_layers) for name in names}


def _blocks(names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Number of each input block after the first -> its resolution, and its place among the blocks of that."""
    numbers = sorted({int(name.split(".")[1]) for name in names if name.startswith("input_blocks.")})
    places, level, place = {}, 0, 0
    for number in numbers[1:]:
        places[str(number)] = level, place
        place += 1
        if f"input_blocks.{number}.0.op.weight" in names:
            level, place = level + 1, 0
    return places


def _diffusers_name(name: str, blocks: dict[str, tuple[int, int]], hint_layers: Sequence[int]) -> str:
    part, number, *rest = name.split(".")
    end = ".".join(rest)
    match part:
        case "time_embed":
            return f"{_TIME_EMBEDDING[number]}.{end}"
        case "input_blocks" if number == "0":
            return f"conv_in.{rest[-1]}"
        case "input_blocks":
            level, place = blocks[number]
            layer, _, end = end.partition(".")
            if end.startswith("op."):
                return f"down_blocks.{level}.downsamplers.0.conv.{rest[-1]}"
            return f"down_blocks.{level}.{'resnets' if layer == '0' else 'attentions'}.{place}.{_layer(end)}"
        case "middle_block":
            return f"mid_block.{_MIDDLE[number]}.{_layer(end)}"
        case "zero_convs":
            return f"controlnet_down_blocks.{number}.{rest[-1]}"
        case "middle_block_out":
            return f"controlnet_mid_block.{end}"
        case "input_hint_block":
            place = hint_layers.index(int(number))
            places = {0: "conv_in", len(hint_layers) - 1: "conv_out"}
            return f"controlnet_cond_embedding.{places.get(place, f'blocks.{place - 1}')}.{end}"
    return name


def _layer(name: str) -> str:
    """A name inside a residual block; transformers have the same names in both."""
    return re.sub("|".join(map(re.escape, _RESBLOCK)), lambda found: _RESBLOCK[found[0]], name, count=1)
