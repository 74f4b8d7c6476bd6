"""An average of the trained weights over the steps, of which samples are steadier than of the weights themselves."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from cldm.training.guard import was_skipped


class Ema(pl.Callback):
    """Keeps an exponential moving average of all weights that are trained, in float32 on their devices.

    After the n-th update the average has moved towards the weights by 1 - min(decay, (1 + n) / (10 + n)): at first it
    forgets the untrained weights quickly. Steps that a `NotANumberGuard` skips do not count.

    Args:
        decay: What is kept of the average at each step, in (0, 1); 0.9999 is customary, and 0.999 for short runs.

    Raises:
        ValueError: If the decay is out of range.
    """

    def __init__(self, decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"decay must be above 0 and below 1, got {decay}")
        self.decay = decay
        self.updates = 0
        self.averages: dict[str, Tensor] = {}
        self._seen = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the weights as they are, or go on with the averages of the run that is resumed."""
        trained = _trained(pl_module)
        restored, self.averages = self.averages, {}
        if restored and restored.keys() != trained.keys():
            raise ValueError(
                f"the resumed averages are of {len(restored)} weights, but {len(trained)} are trained now; resume with "
                "the sd_locked that the run began with"
            )
        for name, parameter in trained.items():
            start = restored[name] if restored else parameter.detach()
            self.averages[name] = start.to(parameter.device, torch.float32, copy=True)
        self._seen = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        stepped, self._seen = trainer.global_step > self._seen, trainer.global_step
        if stepped and not was_skipped(trainer):
            self.update(pl_module)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the averages towards the model's weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages = list(self.averages.values())
        weights = [parameter.detach().float() for parameter in _trained(model).values()]
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextmanager
    def averaged(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged weights; afterwards it has the very same ones as before."""
        trained = _trained(model)
        own = {name: parameter.data for name, parameter in trained.items()}
        try:
            for name, average in self.averages.items():
                trained[name].data = average.to(trained[name].dtype)
            yield
        finally:
            for name, parameter in trained.items():
                parameter.data = own[name]

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "averages": {name: value.cpu() for name, value in self.averages.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates, self.averages = state_dict["updates"], dict(state_dict["averages"])


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def averaged_weights(trainer: pl.Trainer, model: nn.Module) -> AbstractContextManager[None]:
    """The model with the weights that a run is judged by and saves: those that its `Ema` averaged, if it has one."""
    for callback in getattr(trainer, "callbacks", ()):
        if isinstance(callback, Ema) and callback.averages:
            return callback.averaged(model)
    return nullcontext()
