"""The weights that a run starts from."""

from dataclasses import dataclass
from pathlib import Path

import torch

from cldm.cldm import ControlLDM
from cldm.model import create_model
from cldm.weights.add_control import add_control
from cldm.weights.blueprint import Blueprint
from cldm.weights.layouts import CONTROL
from cldm.weights.merging import merge
from cldm.weights.precision import in_precision
from cldm.weights.reading import own_storage, read_weights
from ldm.deferred import HandedOver


@dataclass(frozen=True)
class Start:
    """Files of a run's first weights.

    Attributes:
        config: The yaml of the model.
        files: One with everything, or a Stable Diffusion and then a ControlNet in any known shape.
        attach: Whether a single file that has no ControlNet gets a fresh one, as by `tool_add_control.py`.
        seed: Of the fresh ControlNet's hint encoder.
    """

    config: str
    files: tuple[Path, ...]
    attach: bool = False
    seed: int = 0

    def weights(self) -> HandedOver:
        """All tensors, by name, mapped from the files.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file is damaged, of another version, or not what the model needs.
        """
        blueprint = Blueprint.of(create_model(self.config), self.config)
        base, *control = (read_weights(file) for file in self.files)
        if self.attach and not control and not any(name.startswith(CONTROL) for name in base):
            return HandedOver(add_control(base, blueprint, self.seed).weights, f"{base.source} with a fresh ControlNet")
        return merge(base, control[0] if control else None, blueprint)

    def model(self) -> ControlLDM:
        """The model with these weights in float32, on the CPU, each in memory of its own.

        A fresh ControlNet is a copy of the U-Net's encoder: in the same memory, its training would change that as well.
        """
        model = create_model(self.config)
        weights, seen = in_precision(self.weights(), torch.float32), set()
        own = {name: own_storage(tensor, seen) for name, tensor in weights.items()}
        model.load_state_dict(HandedOver(own, weights.source), assign=True)
        return model.eval()
