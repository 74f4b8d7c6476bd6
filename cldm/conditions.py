"""What a ControlLDM's networks are told at a time step: prompts, and control images with their ControlNets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ldm.modules.attention import Context, TextKeys


@dataclass(frozen=True, eq=False)
class AppliedControl:
    """A control image with its ControlNet, which encodes it once; one for all images of a batch, or one for each.

    Attributes:
        network: The `ControlNet`.
        hint: (1 or b, c, H, W) in [0, 1].
        scales: Weight of each connection; None for those of the model that it is applied in.
        timesteps: Lowest and highest time step at which it acts; None for all.
    """

    network: nn.Module
    hint: Tensor
    scales: Sequence[float] | None
    timesteps: tuple[int, int] | None = None

    @cached_property
    def features(self) -> Tensor:
        """The hint as `ControlNet.encode_hint` has it, (1 or b, model_channels, h, w); made when it is first needed."""
        return self.network.encode_hint(self.hint)

    def acts_at(self, t: Tensor) -> bool:
        """Whether it acts at time steps `t` (b,), which are all the same unless it acts always."""
        if self.timesteps is None:
            return True
        lowest, highest = self.timesteps
        return lowest <= int(t[0]) <= highest

    def outputs(self, x: Tensor, t: Tensor, context: Context, usual: Sequence[float] = ()) -> list[Tensor]:
        """What is to be added to the U-Net's connections at a latent (b, c, h, w); see `ControlNet.forward`.

        Args:
            x: The latent.
            t: Time steps, (b,).
            context: See `ControlNet.forward`.
            usual: The model's `control_scales`, where it has no `scales` of its own.

        Raises:
            ValueError: If there are more or fewer weights than connections.
        """
        control = self.network(x, None, t, context, guided_hint=self.features)
        scales = usual if self.scales is None else self.scales
        if len(scales) != len(control):
            raise ValueError(f"control_scales must have {len(control)} weights, got {len(scales)}")
        return [c if scale == 1.0 else c * scale for c, scale in zip(control, scales, strict=True)]


class KeysByNetwork(dict[nn.Module, TextKeys]):
    """Prompts as every network's attentions see them, each network's made when it is first told of them.

    Args:
        tokens: Of the prompts, (b, n, context_dim).
    """

    def __init__(self, tokens: Tensor):
        super().__init__()
        self.tokens = tokens

    def __missing__(self, network: nn.Module) -> TextKeys:
        self[network] = network.text_keys(self.tokens)
        return self[network]


def summed(outputs: Sequence[Sequence[Tensor]]) -> list[Tensor] | None:
    """Several ControlNets' outputs as one's (arXiv:2302.05543, section 3.4); None for those of none."""
    if not outputs:
        return None
    return [connection[0] if len(connection) == 1 else sum(connection) for connection in zip(*outputs, strict=True)]


def one_after_the_other(tokens: Sequence[Tensor]) -> Tensor:
    """Tokens (b, n, c) of prompts that belong together, by place."""
    return tokens[0] if len(tokens) == 1 else torch.cat(list(tokens), dim=1)


def context_of(cond: Mapping[str, Any], network: nn.Module) -> Context:
    """The prompts' tokens, or what they become in this network, if that has been prepared."""
    return cond["text_keys"][network] if "text_keys" in cond else one_after_the_other(cond["c_crossattn"])
