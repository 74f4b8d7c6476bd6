"""The most bytes that tensors hold at once, counted by storage: no allocator and no page cache in the figure."""

import gc
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Counts storages from the operation that makes them until nothing holds them any more.

    What autograd saves for the backward pass, gradients and optimizer states are such storages too. Tensors that share
    a storage count once; so do weights that are mapped from a file. Memory that a kernel uses while it runs is not
    seen.

    Args:
        held: Tensors that are there before, such as a model's parameters.
        device: Type of the device whose tensors count; None for all. On "meta", which needs neither memory nor time,
            it is what would be there.

    Attributes:
        now: Bytes.
        peak: The most bytes so far.
    """

    def __init__(self, held: Iterable[Tensor] = (), device: str | None = None):
        super().__init__()
        self.now = 0
        self.peak = 0
        self._device = device
        self._known: set[int] = set()
        for tensor in held:
            self._see(tensor)

    def look_around(self) -> None:
        """Count tensors that no operation under watch has made: earlier ones, and those that files were mapped to."""
        for thing in gc.get_objects():
            if issubclass(type(thing), Tensor):
                self._see(thing)

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._see(value)
        return result

    def _see(self, tensor: Tensor) -> None:
        if self._device not in (None, tensor.device.type) or tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._let_go, key, size).atexit = False

    def _let_go(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def held(networks: Iterable[nn.Module], optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Parameters, gradients and buffers of networks, and an optimizer's states."""
    for network in networks:
        yield from network.buffers()
        for parameter in network.parameters():
            yield parameter
            if parameter.grad is not None:
                yield parameter.grad
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
