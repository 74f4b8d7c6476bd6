"""Steps whose loss or gradient is no number are skipped, and end the training where they do not end."""

from collections import deque
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from cldm.optimization.in_backward import InBackward
from cldm.training.processes import least_of_all_processes, of_all_processes
from ldm.models.diffusion.draws import INDEX


class _Seen(NamedTuple):
    """Of one process and step: its samples' places in the dataset, and whether its own loss was a number."""

    indices: list[int]
    is_loss_finite: bool


class NotANumberGuard(pl.Callback):
    """Skips a step whose loss or gradient is not finite: weights, optimizer and averages stay as they are.

    One number a step says whether the loss and all gradients are finite. It is computed on the device, the processes
    put theirs together, so that all decide alike, and then it is read: the one wait for the device a step. To skip is
    to take the gradients away, since an optimizer leaves weights without gradients alone. In 16-mixed precision the
    gradient scaler skips such steps itself and lowers its scale, so there they are only counted; a few are usual. An
    optimizer that steps during the backward pass is held before it, for which the loss is read there already. A finite
    loss whose gradient is not finite has then changed weights when it is seen, and ends the training.

    The guard comes before an `Ema` among the callbacks.

    Args:
        patience: So many skipped steps in a row end the training.

    Raises:
        ValueError: If `patience` is below 1.
    """

    def __init__(self, patience: int = 20):
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        self.patience = patience
        self.skipped = False
        self.in_a_row = 0
        self._batches: list[Any] = []
        self._is_loss_finite: Tensor | None = None
        self._culprits: deque[int] = deque(maxlen=64)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any) -> None:
        self._batches.append(batch.get(INDEX) if isinstance(batch, dict) else None)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        finite = loss.detach().isfinite().all()
        self._is_loss_finite = finite if self._is_loss_finite is None else self._is_loss_finite & finite
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, InBackward):
                optimizer.held = not finite.item()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        own = self._is_loss_finite
        finite = are_finite(optimizer) if own is None else are_finite(optimizer) & own
        self.skipped = least_of_all_processes(finite.float().to(pl_module.device)).item() < 1
        if self.skipped:
            if isinstance(optimizer, InBackward) and not optimizer.held:
                raise FloatingPointError(_STEPPED_ALREADY.format(step=trainer.global_step + 1))
            if getattr(trainer.precision_plugin, "scaler", None) is None:
                optimizer.zero_grad(set_to_none=True)
            self._report(trainer, own is None or bool(own))
        else:
            self.in_a_row = 0
            self._culprits.clear()
        self._batches, self._is_loss_finite = [], None

    def _report(self, trainer: pl.Trainer, is_own_loss_finite: bool) -> None:
        indices = [i for batch in self._batches if batch is not None for i in torch.as_tensor(batch).tolist()]
        seen = of_all_processes(_Seen(indices, is_own_loss_finite))
        is_loss = not all(each.is_loss_finite for each in seen)
        named = sorted({i for each in seen if not (is_loss and each.is_loss_finite) for i in each.indices})
        self.in_a_row += 1
        self._culprits.extend(i for i in named if i not in self._culprits)
        what = "loss" if is_loss else "gradient"
        samples = f"samples {', '.join(map(str, named))}" if named else "samples without an index"
        rank_zero_warn(
            f"step {trainer.global_step + 1} is skipped: its {what} is no number. Its batch had the {samples}; "
            f"{self.in_a_row} of {self.patience} in a row until training stops"
        )
        if self.in_a_row >= self.patience:
            raise FloatingPointError(_message(self.in_a_row, what, list(self._culprits)))


_STEPPED_ALREADY = (
    "a gradient of step {step} was no number, though its loss was, and with optimizer_in_backward=true weights are "
    "stepped before that is seen, so they are lost. Go on from the last saved state, with optimizer_in_backward=false"
)


def was_skipped(trainer: pl.Trainer) -> bool:
    """Whether the run's guard skipped the last step."""
    return any(callback.skipped for callback in trainer.callbacks if isinstance(callback, NotANumberGuard))


def are_finite(optimizer: torch.optim.Optimizer) -> Tensor:
    """Whether all gradients are, or were before they were let go; a bool on their device."""
    if isinstance(optimizer, InBackward) and not optimizer.held:
        return optimizer.finite
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        return torch.tensor(True)
    return torch.nn.utils.get_total_norm(gradients).isfinite()


def _message(steps: int, what: str, indices: list[int]) -> str:
    samples = ", ".join(map(str, indices)) if indices else "unknown: the batches bring no index"
    return (
        f"the {what} was no number in {steps} steps in a row, so training stops; the weights are those before these "
        f"steps. Samples in them, counted from 0 in the dataset: {samples}. What to try, in this order:\n"
        "- check the dataset, these samples first: python tutorial_dataset.py PATH\n"
        "- precision=bf16-mixed or 32-true instead of 16-mixed\n"
        "- a lower learning_rate, a tenth for instance; with sd_locked=false 2e-6 is customary\n"
        "- start from the last saved ControlNet before the losses rose, or from fresh weights"
    )
