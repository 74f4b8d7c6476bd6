"""Stepping in the backward pass: the same weights to the bit, and no gradient left."""

import copy

import pytest
import torch
from torch import nn

from cldm.optimization.adamw_bf16 import AdamWBF16
from cldm.optimization.in_backward import InBackward

OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, fused=True),
    "bf16": lambda parameters: AdamWBF16(parameters, lr=1e-2),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 2))


def closure_of(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int):
    def closure() -> torch.Tensor:
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))
        loss = net(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        return loss.detach()

    return closure


def train(net: nn.Module, optimizer: torch.optim.Optimizer, seeds=range(5)) -> list[float]:
    return [float(optimizer.step(closure_of(net, optimizer, seed))) for seed in seeds]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_are_the_ordinary_optimizers_to_the_bit(name):
    net, twin = network(), network()
    losses = train(net, OPTIMIZERS[name](net.parameters()))
    assert train(twin, InBackward(OPTIMIZERS[name](twin.parameters()))) == losses
    assert same(net, twin)
    assert not same(net, network())


def test_one_gradient_is_in_memory_at_a_time():
    net = network()
    optimizer = InBackward(torch.optim.AdamW(net.parameters()))
    seen = []
    hooks = [
        p.register_post_accumulate_grad_hook(lambda _: seen.append(sum(p.grad is not None for p in net.parameters())))
        for p in net.parameters()
    ]
    train(net, optimizer)
    assert set(seen) == {1}
    assert all(p.grad is None for p in net.parameters())
    assert len(hooks) == 4


def test_outside_of_a_step_gradients_are_left():
    net = network()
    optimizer = InBackward(torch.optim.AdamW(net.parameters()))
    train(net, optimizer)
    before = copy.deepcopy(net)
    net(torch.ones(1, 8)).sum().backward()
    assert same(net, before)
    assert all(p.grad is not None for p in net.parameters())
    optimizer.step()
    assert not same(net, before)


def test_after_an_error_in_the_closure_no_hook_is_left():
    net = network()
    optimizer = InBackward(torch.optim.AdamW(net.parameters()))

    def closure():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(closure)
    net(torch.ones(1, 8)).sum().backward()
    assert same(net, network())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_goes_on_with_or_without_it(name):
    net, twin = network(), network()
    ordinary, wrapped = OPTIMIZERS[name](net.parameters()), InBackward(OPTIMIZERS[name](twin.parameters()))
    train(net, ordinary)
    train(twin, wrapped)
    there, back = InBackward(OPTIMIZERS[name](net.parameters())), OPTIMIZERS[name](twin.parameters())
    there.load_state_dict(copy.deepcopy(ordinary.state_dict()))
    back.load_state_dict(copy.deepcopy(wrapped.state_dict()))
    assert train(net, there, seeds=range(5, 8)) == train(twin, back, seeds=range(5, 8))
    assert same(net, twin)


def test_a_schedule_changes_its_learning_rate():
    net, twin = network(), network()
    for one, optimizer in (
        (net, torch.optim.AdamW(net.parameters())),
        (twin, InBackward(torch.optim.AdamW(twin.parameters()))),
    ):
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
        for seed in range(3):
            train(one, optimizer, [seed])
            rate.step()
    assert same(net, twin)
