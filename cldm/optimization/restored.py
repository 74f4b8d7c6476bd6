"""An optimizer that was restored from a state, made to do what the present settings say."""

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def as_set_now(optimizer: Optimizer, schedule: LambdaLR | None, steps: int) -> None:
    """Give an optimizer back what it was made with, which loading a state has replaced by the state's.

    What was learnt stays as loaded: moments, and the place in a schedule; a schedule that the state's run did not have
    is at its place after `steps` too.

    Args:
        optimizer: Made with the present settings, then loaded.
        schedule: Of its learning rate, likewise; None for none.
        steps: Done so far.
    """
    for group in optimizer.param_groups:
        group.update(optimizer.defaults)
        if group.get("fused"):
            _count_on_device(optimizer, group["params"])
    if schedule is None:
        return
    schedule.base_lrs = [group["lr"] for group in optimizer.param_groups]
    schedule.last_epoch = schedule.last_epoch or steps
    for group, base, share in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["initial_lr"], group["lr"] = base, base * share(schedule.last_epoch)
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]


def _count_on_device(optimizer: Optimizer, parameters: list[torch.nn.Parameter]) -> None:
    """Have the numbers of steps where a fused kernel wants them: on the weights' devices."""
    for parameter in parameters:
        count = optimizer.state.get(parameter, {}).get("step")
        if isinstance(count, torch.Tensor):
            optimizer.state[parameter]["step"] = count.to(parameter.device, torch.float32)
