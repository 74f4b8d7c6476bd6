"""Parts of a model that are on the accelerator only while they are in use."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


@contextmanager
def on_device(device: torch.device, *modules: nn.Module) -> Iterator[None]:
    """Have modules on a device for a while; what was elsewhere is afterwards where it was, without being copied back.

    Args:
        device: Where they are to compute.
        modules: Not changed meanwhile.
    """
    tensors = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
    visitors = {tensor: tensor.data for tensor in tensors if tensor.device != device}
    try:
        for tensor, resting in visitors.items():
            tensor.data = resting.to(device)
        yield
    finally:
        for tensor, resting in visitors.items():
            tensor.data = resting
