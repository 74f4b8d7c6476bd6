"""A convolution that keeps nothing for the backward pass that it will not need.

PyTorch's keeps its input for the gradient of its weight, also where the weight is locked and has none. A control is
trained through the whole locked decoder, whose inputs are thereby let go as soon as they are used.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SMALLEST = 2**16
"""Numbers in an input that is worth being let go."""


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> Tensor:
    """As `torch.nn.functional.conv2d`; keeps a large `x` for the backward pass only if weight or bias need a gradient.

    Args:
        x: (b, channels, h, w).
        weight: (out_channels, channels, kernel, kernel).
        bias: (out_channels,), or None.
        stride: In both directions.
        padding: Zeros on each side.
    """
    through = x.requires_grad and torch.is_grad_enabled()
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if through and not trained and x.numel() >= _SMALLEST and not torch.compiler.is_compiling():
        return _Locked.apply(x, weight, bias, stride, padding)
    return F.conv2d(x, weight, bias, stride, padding)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` by `conv2d`, for square kernels, with the same parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, self.stride[0], self.padding[0])


class _Locked(torch.autograd.Function):
    """A convolution whose weights are constants."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        # Not by `save_for_backward`: to have it again, a checkpointed block would compute its last convolution anew.
        x, ctx.weight, _, ctx.stride, ctx.padding = inputs
        ctx.size, ctx.dtype = x.shape[-2:], x.dtype

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kernel = ctx.weight.shape[-2:]
        beyond = [  # of the input: what no window of the kernel reached
            size - (out - 1) * ctx.stride - k + 2 * ctx.padding
            for size, out, k in zip(ctx.size, gradient.shape[-2:], kernel, strict=True)
        ]
        weight = ctx.weight.to(gradient.dtype)  # under autocast they differ
        back = F.conv_transpose2d(gradient, weight, None, ctx.stride, ctx.padding, beyond)
        return back.to(ctx.dtype), None, None, None, None
