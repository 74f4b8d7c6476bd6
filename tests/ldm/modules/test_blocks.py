"""Zeroed modules, recomputed activations, SiLU in place and nearest upsampling."""

import pytest
import torch
from torch import Tensor, nn

from ldm.modules.blocks import run, silu, upsample_nearest, zeroed


def test_zeroed_is_the_same_module_with_nothing_but_zeros():
    layer = nn.Conv2d(3, 5, 3)
    assert zeroed(layer) is layer
    assert all((p == 0).all() for p in layer.parameters())
    assert all(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_do_not_depend_on_recomputing(recompute):
    calls = []

    def block(x: Tensor, y: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return x.sin() * y

    x, y = torch.tensor(0.5, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    run(block, x, y, recompute=recompute).backward()
    assert x.grad.item() == pytest.approx(3 * torch.tensor(0.5).cos().item())
    assert y.grad.item() == pytest.approx(torch.tensor(0.5).sin().item())
    assert len(calls) == (2 if recompute else 1)


def test_nothing_is_recomputed_where_there_are_no_gradients():
    calls = []
    with torch.no_grad():
        run(lambda x: calls.append(1) or x, torch.zeros(1), recompute=True)
    assert calls == [1]


@pytest.mark.parametrize("trains", [False, True])
def test_silu_takes_no_memory_of_its_own_where_no_backward_pass_needs_it(trains):
    before = torch.linspace(-3, 3, 7)
    x = before.clone().requires_grad_(trains)
    after = silu(x)
    assert torch.equal(after, torch.nn.functional.silu(before))
    assert (after.data_ptr() == x.data_ptr()) is not trains


def test_upsampling_repeats_pixels():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert upsample_nearest(x)[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
