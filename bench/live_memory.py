"""How many bytes of tensors are alive, at the most, while code runs: no allocator and no page cache in the figure."""

import gc
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages of all tensors that exist when it is entered, and of all that operations make after that.

    Tensors that share a storage count once; so do weights that are mapped from a file.

    Args:
        device: Type of the device whose tensors count; "meta" counts what would be there, without memory or time.

    Attributes:
        live: Bytes now.
        peak: The most bytes so far.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = device
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __enter__(self) -> "LiveBytes":
        super().__enter__()
        self.look_around()
        return self

    def look_around(self) -> None:
        """Count tensors that no operation has made, such as weights that a file was mapped to."""
        for thing in gc.get_objects():
            if issubclass(type(thing), Tensor):
                self._count(thing)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        if tensor.device.type != self.device or tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size
