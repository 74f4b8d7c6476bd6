"""What a config expects of weights."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from cldm.weights.expected import SCHEDULE, Shapes
from cldm.weights.layouts import CONTROL
from ldm.deferred import known_buffers, shapes


@dataclass(frozen=True)
class Blueprint:
    """Names and shapes of a ControlLDM's weights.

    Attributes:
        shapes: Name -> shape of everything.
        schedule: The noise schedule, which follows from the config.
        config: The config's name, for messages.
    """

    shapes: Shapes
    schedule: dict[str, Tensor]
    config: str

    @classmethod
    def of(cls, model: nn.Module, config: str) -> "Blueprint":
        """The blueprint of a ControlLDM, which may be a deferred one."""
        schedule = {name: tensor for name, tensor in known_buffers(model).items() if name in SCHEDULE}
        return cls(shapes(model), schedule, config)

    @cached_property
    def base(self) -> Shapes:
        """The part that is a Stable Diffusion."""
        return {name: shape for name, shape in self.shapes.items() if not name.startswith(CONTROL)}

    @cached_property
    def control(self) -> Shapes:
        """The part that is a ControlNet."""
        return {name: shape for name, shape in self.shapes.items() if name.startswith(CONTROL)}
