"""A restored optimizer does as it was made, with the moments of the state that it was loaded from."""

import copy

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from cldm.optimization import Optimization, configure
from cldm.optimization.restored import as_set_now


def made(learning_rate: float = 1e-3, steps: int = 0, **settings):
    """An optimizer and its schedule after some steps, and the weight."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3, 4))
    configured = configure([weight], learning_rate, Optimization(**settings))
    optimizer, schedule = configured, None
    if isinstance(configured, dict):
        optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    for _ in range(steps):
        step(optimizer, weight, schedule)
    return optimizer, schedule, weight


def step(optimizer, weight, schedule=None) -> None:
    optimizer.zero_grad()
    weight.square().sum().backward()
    optimizer.step()
    if schedule is not None:
        schedule.step()


def restored(before, after, steps: int = 3) -> None:
    """Load the first one's state into the second, as Lightning does."""
    after[0].load_state_dict(copy.deepcopy(before[0].state_dict()))
    if before[1] is not None and after[1] is not None:
        after[1].load_state_dict(before[1].state_dict())
    after[2].data.copy_(before[2].data)
    as_set_now(after[0], after[1], steps)


def test_new_settings_are_taken_and_moments_kept():
    before, after = made(steps=3), made(1e-5, weight_decay=0.5, beta1=0.8)
    restored(before, after)
    (group,) = after[0].param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-5, 0.5, (0.8, 0.999))
    moments = [optimizer.state[weight]["exp_avg"] for optimizer, _, weight in (before, after)]
    assert torch.equal(*moments)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_bf16"])
@pytest.mark.parametrize("warmup", [0, 5])
def test_with_the_same_settings_nothing_changes(optimizer, warmup):
    settings = {"optimizer": optimizer, "warmup_steps": warmup}
    before, after = made(steps=3, **settings), made(**settings)
    restored(before, after)
    for each in (before, after):
        for _ in range(4):
            step(each[0], each[2], each[1])
    assert torch.equal(before[2], after[2])


@pytest.mark.parametrize(("first", "then"), [("adamw", "adamw_bf16"), ("adamw_bf16", "adamw")])
def test_adamw_and_its_short_moments_go_on_from_each_other(first, then):
    before, after = made(steps=3, optimizer=first), made(optimizer=then)
    restored(before, after)
    for each in (before, after):
        step(each[0], each[2])
    torch.testing.assert_close(before[2], after[2], rtol=0, atol=5e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_a_kernel_is_that_of_the_settings(fused):
    before, after = made(steps=3, fused=not fused), made(fused=fused)
    restored(before, after)
    assert bool(after[0].param_groups[0]["fused"]) is fused
    step(after[0], after[2])


def test_a_changed_rate_goes_through_the_rest_of_the_schedule():
    before, after = made(1e-3, steps=3, warmup_steps=10), made(1e-4, warmup_steps=10)
    restored(before, after)
    assert after[0].param_groups[0]["lr"] == pytest.approx(4e-5)  # the fourth of ten
    step(after[0], after[2], after[1])
    assert after[0].param_groups[0]["lr"] == pytest.approx(5e-5)


def test_a_schedule_that_is_new_is_where_the_run_is():
    before, after = made(1e-3, steps=3), made(1e-3, warmup_steps=10)
    restored(before, after)
    assert after[0].param_groups[0]["lr"] == pytest.approx(4e-4)


def test_a_schedule_that_is_gone_leaves_the_full_rate():
    before, after = made(1e-3, steps=3, warmup_steps=10), made(1e-3)
    restored(before, after)
    assert after[0].param_groups[0]["lr"] == 1e-3


def test_one_that_steps_in_the_backward_pass_is_set_as_well():
    before, after = made(steps=3), made(1e-5, in_backward=True)
    restored(before, after)
    assert after[0].optimizer.param_groups[0]["lr"] == 1e-5


def test_schedules_are_torchs_own():
    assert isinstance(made(warmup_steps=2)[1], LambdaLR)
