"""A run in which the ControlNet learns nothing, or whose processes differ, ends at its first step, with the reason."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from cldm.cldm import ControlLDM
from cldm.training.processes import of_all_processes
from cldm.training.state import StateError


class FirstStep(pl.Callback):
    """Checks the first step: the ControlNet gets a gradient, and all processes have the same weights after it.

    Before it, that all of them begin at the same step: each has looked for a state to go on from by itself.

    The first of several processes may well train while the others, or all of them each for itself, do not: nothing
    but these figures shows it.
    """

    def __init__(self):
        self._reached: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: ControlLDM) -> None:
        self._step = trainer.global_step
        check_same_start(of_all_processes(self._step))
        trained = [(name, p) for name, p in pl_module.control_model.named_parameters() if p.requires_grad]
        if not trained:
            raise RuntimeError("no weight of the ControlNet is trained: all of them are locked (requires_grad)")
        optimized = {
            id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]
        }
        left_out = [name for name, p in trained if id(p) not in optimized]
        if left_out:
            raise RuntimeError(
                f"{len(left_out)} of {len(trained)} weights of the ControlNet are in no optimizer, {left_out[0]} for "
                "instance: configure_optimizers must be given all of trained_parameters()"
            )
        self._hooks = [p.register_hook(self._seen(name)) for name, p in trained]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: ControlLDM, *_: Any) -> None:
        if not self._hooks or trainer.global_step == self._step:
            return
        self._remove_hooks()
        check_reached(self._reached, sum(p.requires_grad for p in pl_module.control_model.parameters()))
        if isinstance(trainer.strategy, DDPStrategy):
            check_same(of_all_processes(fingerprint(pl_module.control_model)))
        self._reached = {}

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._remove_hooks()

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _seen(self, name: str) -> Any:
        def note(gradient: Tensor) -> None:
            self._reached[name] = gradient.detach().count_nonzero() > 0

        return note


def check_reached(reached: dict[str, Tensor], trained: int) -> None:
    """Check that the backward pass came to the ControlNet.

    At the first step of a fresh one, most gradients are zero, since they pass zero convolutions; not those of these.

    Args:
        reached: Whether the gradient was other than zero, for each weight that got one.
        trained: Number of weights that are trained.

    Raises:
        RuntimeError: If a weight got none, or all that came were zero.
    """
    if len(reached) < trained:
        raise RuntimeError(
            f"{trained - len(reached)} of the ControlNet's {trained} trained weights got no gradient in the first "
            "step: the loss does not depend on them. Lock what is not used, or use what is trained"
        )
    if not any(bool(nonzero) for nonzero in reached.values()):
        raise RuntimeError(
            "all gradients of the ControlNet were zero in the first step, so it would learn nothing: check that "
            "control_scales are not all 0, that batches bring the control image, and that nothing detaches its outputs"
        )


def check_same_start(steps: Sequence[int]) -> None:
    """Check that all processes begin at the same step.

    Args:
        steps: Of the processes, by rank.

    Raises:
        StateError: If they do not.
    """
    if len(set(steps)) > 1:
        raise StateError(
            f"the {len(steps)} processes begin at different steps ({', '.join(map(str, steps))}), since they have not "
            "found the same state to go on from: output must be one folder that all machines see, and so must that "
            "of a state that is named by resume"
        )


def check_same(figures: Sequence[int]) -> None:
    """Check that the figures of all processes are the same.

    Raises:
        RuntimeError: If they did not.
    """
    if len(set(figures)) > 1:
        raise RuntimeError(
            f"after the first step, the ControlNets of the {len(figures)} processes differ (sums {figures}): their "
            "gradients are not put together. Use strategy=ddp, and do not step optimizers inside the backward pass"
        )


@torch.no_grad()
def fingerprint(module: nn.Module) -> int:
    """A figure that differs where weights do: a sum of their bits, each tensor's with a weight of its own.

    Of whole numbers, so that neither the device nor its threads change it; one NaN is as the other.
    """
    bits = (p.float().nan_to_num().contiguous().view(torch.int32).sum(dtype=torch.int64) for p in module.parameters())
    return sum(place * total.item() for place, total in enumerate(bits, start=1))
