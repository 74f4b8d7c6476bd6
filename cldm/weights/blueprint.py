"""What a config expects of weights."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from cldm.weights.expected import SCHEDULE, Shapes
from cldm.weights.layouts import CONTROL
from ldm.deferred import HandedOver, known_buffers, shapes
from ldm.modules.encoders.modules import FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder

_TEXT_ENCODER = "cond_stage_model."


@dataclass(frozen=True)
class Blueprint:
    """Names and shapes of a ControlLDM's weights.

    Attributes:
        shapes: Name -> shape of everything.
        schedule: The noise schedule, which follows from the config.
        config: The config's name, for messages.
        without_effect: Names in the text encoder that nothing depends on, such as its last layer where the config asks
            for the one before. Files that were diffusers' once lack them.
    """

    shapes: Shapes
    schedule: dict[str, Tensor]
    config: str
    without_effect: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: nn.Module, config: str) -> "Blueprint":
        """The blueprint of a ControlLDM, which may be a deferred one."""
        schedule = {name: tensor for name, tensor in known_buffers(model).items() if name in SCHEDULE}
        without_effect = frozenset(_TEXT_ENCODER + name for name in _without_effect(model))
        return cls(shapes(model), schedule, config, without_effect)

    @cached_property
    def base(self) -> Shapes:
        """The part that is a Stable Diffusion."""
        return {name: shape for name, shape in self.shapes.items() if not name.startswith(CONTROL)}

    @cached_property
    def control(self) -> Shapes:
        """The part that is a ControlNet."""
        return {name: shape for name, shape in self.shapes.items() if name.startswith(CONTROL)}

    def completed(self, weights: HandedOver) -> HandedOver:
        """The weights, with zeros for what they lack of `without_effect`.

        A layer of zeros hands on what it is given: where somebody asks for it after all, it is the one before.
        """
        lacking = [name for name in self.shapes if name in self.without_effect and name not in weights]
        if not lacking:
            return weights
        return HandedOver({**weights, **{name: torch.zeros(self.shapes[name]) for name in lacking}}, weights.source)


def _without_effect(model: nn.Module) -> list[str]:
    # Not by the attribute, which would give a deferred model its values.
    encoder = vars(model)["_modules"].get("cond_stage_model")
    # What a subclass of one's own uses is not known.
    return encoder.without_effect() if type(encoder) in (FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder) else []
