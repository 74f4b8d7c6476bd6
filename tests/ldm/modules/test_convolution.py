"""The convolution of the U-Net against PyTorch's own, and what it keeps for the backward pass."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ldm.modules import convolution
from ldm.modules.blocks import run
from ldm.modules.convolution import Conv2d
from ldm.modules.linear import Linear
from tests.tiny import control_ldm

ROOMS = [(1, 1, 0), (3, 1, 1), (3, 2, 1), (4, 2, 1), (3, 2, 0)]
"""Kernel, stride, padding."""


@pytest.fixture(autouse=True)
def smallest(monkeypatch) -> None:
    """Most inputs of these tests count as large."""
    monkeypatch.setattr(convolution, "_SMALLEST", 100)


def layers(kernel: int, stride: int, padding: int, locked: bool, bias: bool = True) -> tuple[Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    pair = tuple(kind(6, 10, kernel, stride, padding, bias=bias) for kind in (Conv2d, nn.Conv2d))
    pair[1].load_state_dict(pair[0].state_dict())
    for layer in pair:
        layer.requires_grad_(not locked)
    return pair


def kept(compute: Callable[[], Tensor]) -> list[Tensor]:
    """What the backward pass of `compute` would need."""
    tensors: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensors.append(tensor) or tensor, lambda t: t):
        compute()
    return tensors


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("size", [(8, 12), (7, 9), (9, 6)])
def test_values_and_gradients_are_those_of_a_convolution(locked, bias, room, size):
    pair = layers(*room, locked, bias)
    x = torch.randn(2, 6, *size, generator=torch.Generator().manual_seed(1))
    given = [x.clone().requires_grad_() for _ in pair]
    results = [layer(each) for layer, each in zip(pair, given, strict=True)]
    for y in results:
        y.square().sum().backward()
    assert torch.equal(*results)
    torch.testing.assert_close(given[0].grad, given[1].grad)
    for mine, other in zip(*(layer.parameters() for layer in pair), strict=True):
        assert (mine.grad is None) == (other.grad is None) == locked
        if not locked:
            torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_gradients_come_back_in_the_precision_of_the_input(dtype):
    pair = layers(3, 1, 1, locked=True)
    x = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    given = [x.clone().requires_grad_() for _ in pair]
    for layer, each in zip(pair, given, strict=True):
        with torch.autocast("cpu", dtype):
            y = layer(each)
        assert y.dtype == dtype
        y.float().square().sum().backward()
    assert given[0].grad.dtype == torch.float32
    torch.testing.assert_close(given[0].grad, given[1].grad, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("locked", [True, False])
def test_the_input_is_kept_only_where_weights_are_trained(locked):
    layer, theirs = layers(3, 1, 1, locked)
    x = torch.ones(1, 6, 8, 8, requires_grad=True)
    assert any(each.shape == x.shape for each in kept(lambda: theirs(x)))  # PyTorch's keeps it always
    assert any(each.shape == x.shape for each in kept(lambda: layer(x))) is not locked


def test_small_inputs_are_left_to_pytorch():
    layer, _ = layers(3, 1, 1, locked=True)
    x = torch.ones(1, 6, 4, 4, requires_grad=True)
    assert any(each.shape == x.shape for each in kept(lambda: layer(x)))


def test_a_locked_linear_layer_keeps_nothing():
    layer = Linear(512, 1024).requires_grad_(False)
    x = torch.ones(1, 128, 512, requires_grad=True)
    assert kept(lambda: layer(x)) == []
    assert kept(lambda: layer.requires_grad_()(x)) != []


def test_a_bias_that_is_trained_gets_its_gradient():
    ours, theirs = layers(3, 1, 1, locked=True)
    for layer in (ours, theirs):
        layer.bias.requires_grad_()
        layer(torch.ones(1, 6, 8, 8, requires_grad=True)).sum().backward()
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def test_all_convolutions_of_the_unet_are_of_this_kind():
    unet = control_ldm().model.diffusion_model
    assert {type(module) for module in unet.modules() if isinstance(module, nn.Conv2d)} == {Conv2d}


def test_a_checkpointed_block_does_not_compute_its_last_convolution_anew(monkeypatch):
    computed: list[str] = []
    real = convolution.F.conv2d
    monkeypatch.setattr(convolution.F, "conv2d", lambda *given: computed.append("conv") or real(*given))
    block = nn.Sequential(layers(3, 1, 1, locked=True)[0], nn.SiLU(), Conv2d(10, 4, 3, padding=1).requires_grad_(False))
    run(block, torch.ones(1, 6, 8, 8, requires_grad=True), recompute=True).sum().backward()
    assert len(computed) == 3
