"""What the diffusers library's config.json says of a ControlNet: its architecture in diffusers' words."""

from collections.abc import Mapping
from typing import Any

_DEFAULTS = {"channel_mult": (1, 2, 4, 8), "transformer_depth": 1, "num_groups": 32}  # those of our networks
_HINT_WIDTHS = [16, 32, 96, 256]  # of the hint encoder, the same in every ControlNet


def diffusers_config(params: Mapping[str, Any], pooled: bool = False) -> dict[str, Any]:
    """The arguments of diffusers' ControlNetModel that make the same network.

    Args:
        params: Of a yaml's `control_stage_config`.
        pooled: The yaml's `global_average_pooling`.
    """
    given = {**_DEFAULTS, **params}
    widths = [given["model_channels"] * mult for mult in given["channel_mult"]]
    attends = [2**level in given["attention_resolutions"] for level in range(len(widths))]
    is_linear = bool(given.get("use_linear_in_transformer"))
    upcast = given.get("upcast_attention")
    return {
        "_class_name": "ControlNetModel",
        "in_channels": given["in_channels"],
        "conditioning_channels": given["hint_channels"],
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "layers_per_block": given["num_res_blocks"],
        "cross_attention_dim": given["context_dim"],
        "attention_head_dim": _heads(given, widths),
        "transformer_layers_per_block": given["transformer_depth"],
        "use_linear_projection": is_linear,
        "upcast_attention": is_linear if upcast is None else upcast,
        "norm_num_groups": given["num_groups"],
        "conditioning_embedding_out_channels": _HINT_WIDTHS,
        **({"global_pool_conditions": True} if pooled else {}),
    }


def _heads(given: Mapping[str, Any], widths: list[int]) -> int | list[int]:
    """Heads of each level's attention; diffusers calls their number, not their size, attention_head_dim."""
    if given.get("num_head_channels", -1) != -1:
        return [width // given["num_head_channels"] for width in widths]
    return given["num_heads"]
