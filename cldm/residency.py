"""Parts of a model that are on the accelerator only while they are in use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def on_device(device: torch.device, *modules: nn.Module) -> Iterator[None]:
    """Have modules on a device for a while; what was elsewhere is afterwards where it was, without being copied back.

    Args:
        device: Where they are to compute.
        modules: Not changed meanwhile.
    """
    parts = [part for module in modules for part in module.modules()]
    visitors = [
        (held, name, tensor, tensor.data)
        for part in parts
        for held in (part._parameters, part._buffers)
        for name, tensor in held.items()
        if tensor is not None and tensor.device != device
    ]
    try:
        if visitors:
            for module in modules:
                module.to(device)
        yield
    finally:
        for held, name, tensor, resting in visitors:
            if tensor.device != resting.device:
                tensor.data = resting
            held[name] = tensor
