"""Small blocks that the U-Net and the autoencoder share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def zeroed(module: nn.Module) -> nn.Module:
    """The same module with all parameters zero, so that at first it adds nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def run(block: Callable[..., Tensor], *inputs: Tensor, recompute: bool) -> Tensor:
    """Apply `block`; with `recompute`, its activations are computed anew in the backward pass instead of kept."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


def repeated(x: Tensor, rows: int) -> Tensor:
    """`x` (b, ...) whole and again, (rows, ...): the same for each of several conditions; as it is if it has as many.

    Raises:
        ValueError: If `rows` is larger and no multiple of b.
    """
    if rows <= len(x):
        return x
    if rows % len(x):
        raise ValueError(f"expected as many conditions as latents, {len(x)}, or a multiple of it, got {rows}")
    return x.repeat(rows // len(x), *[1] * (x.ndim - 1))


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that nothing else needs, in its own memory unless a backward pass does."""
    return F.silu(x, inplace=not (x.requires_grad and torch.is_grad_enabled()))


def upsample_nearest(x: Tensor) -> Tensor:
    """Double height and width."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
