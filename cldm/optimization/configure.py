"""The optimizer and the learning rate's schedule that settings ask for."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cldm.optimization.adamw_bf16 import AdamWBF16
from cldm.optimization.in_backward import InBackward
from cldm.optimization.schedules import SCHEDULES, share
from ldm.util import get_obj_from_str

OPTIMIZERS = ("adamw", "adamw_bf16", "adamw8bit")


@dataclass(frozen=True)
class Optimization:
    """How weights are changed by their gradients.

    Attributes:
        optimizer: "adamw"; "adamw_bf16", with moments in bfloat16; or "adamw8bit", bitsandbytes'.
        beta1: Of the moving average of the gradient, from 0 to below 1.
        beta2: Of the moving average of its square.
        weight_decay: Of AdamW.
        fused: Step "adamw" in one kernel.
        in_backward: Step each weight during the backward pass; see `InBackward`.
        in_backward_if_alone: Where several processes train, leave `in_backward` out instead of refusing it.
        schedule: See `cldm.optimization.schedules`.
        warmup_steps: Steps during which the learning rate rises.
        seed: Of the rounding of "adamw_bf16".
    """

    optimizer: str = "adamw"
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01
    fused: bool = True
    in_backward: bool = False
    in_backward_if_alone: bool = False
    schedule: str = "constant"
    warmup_steps: int = 0
    seed: int = 0

    def __post_init__(self):
        for name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.optimizer == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError(
                "optimizer=adamw8bit needs the package bitsandbytes, which is not installed: pip install bitsandbytes, "
                "or take optimizer=adamw_bf16, which needs nothing more and saves about two thirds as much"
            )


def configure(
    parameters: Sequence[nn.Parameter], learning_rate: float, optimization: Optimization, trainer: Any = None
) -> Any:
    """What a LightningModule's `configure_optimizers` returns: an optimizer, with a schedule where one is asked for.

    Args:
        parameters: To be trained, on the device that they are trained on.
        learning_rate: Before the schedule.
        optimization: All else.
        trainer: Lightning's, if there is one: it knows what else is done to the gradients, and how long it trains.

    Raises:
        ValueError: If the optimizer cannot do with what the trainer does, or the schedule has no end.
    """
    scaled = trainer is not None and trainer.precision == "16-mixed"
    clip = trainer.gradient_clip_val if trainer is not None else None
    several = trainer is not None and trainer.world_size > 1
    in_backward = optimization.in_backward and not (optimization.in_backward_if_alone and several)
    if in_backward and trainer is not None:
        refuse_in_backward(trainer.accumulate_grad_batches, clip, trainer.precision, trainer.world_size)
    fused = optimization.fused and not (scaled and clip)  # where gradients are unscaled before the step, to be clipped
    optimizer = _optimizer(parameters, learning_rate, optimization, fused)
    if in_backward:
        optimizer = InBackward(optimizer)
    if optimization.schedule == "constant" and not optimization.warmup_steps:
        return optimizer
    total = _total_steps(optimization, trainer)
    schedule, warmup = optimization.schedule, optimization.warmup_steps
    rate = LambdaLR(optimizer, lambda step: share(schedule, step, warmup, total))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


def refuse_in_backward(accumulation: int, clip: float | None, precision: str, processes: int = 1) -> None:
    """Raise ValueError where something is to be done to all gradients between the backward pass and the step."""
    reasons = {
        f"accumulation over {accumulation} batches adds to gradients": accumulation > 1,
        f"gradient clipping ({clip}) needs all gradients at once": bool(clip),
        f"precision {precision} scales gradients until the step": str(precision).startswith("16"),
        f"{processes} processes average gradients after the backward pass": processes > 1,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ValueError(f"optimizer_in_backward must be false here: {'; '.join(found)}")


def _optimizer(
    parameters: Sequence[nn.Parameter], learning_rate: float, optimization: Optimization, fused: bool
) -> Optimizer:
    shared = {
        "lr": learning_rate,
        "betas": (optimization.beta1, optimization.beta2),
        "weight_decay": optimization.weight_decay,
    }
    if optimization.optimizer == "adamw_bf16":
        return AdamWBF16(parameters, seed=optimization.seed, **shared)
    if optimization.optimizer == "adamw8bit":
        return get_obj_from_str("bitsandbytes.optim.AdamW8bit")(parameters, **shared)
    return torch.optim.AdamW(parameters, fused=fused or None, **shared)


def _total_steps(optimization: Optimization, trainer: Any) -> float:
    if optimization.schedule == "constant":
        return float("inf")
    total = float("inf") if trainer is None else trainer.estimated_stepping_batches
    if total == float("inf"):
        raise ValueError(f"schedule={optimization.schedule} needs a number of steps to end at: set max_steps")
    return total
