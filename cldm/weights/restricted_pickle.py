"""A pickle module for `torch.load` that builds tensors and plain data, and never runs code from a file.

A pickle names functions and classes to call. Those few that make tensors are answered with functions of our own; every
other name is answered with an inert placeholder, so that a checkpoint with a training callback inside still opens.
"""

import pickle
from collections import OrderedDict
from typing import Any, BinaryIO

import torch
from torch import Tensor


class Placeholder:
    """Stands for anything that is neither a tensor nor plain data: takes whatever it is given and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "Placeholder":
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    append = extend = add = __call__


class _Rebuild:
    """Makes a tensor from a storage, as `torch._utils._rebuild_tensor_v2` does; has no state that a file could set."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
        return torch._utils._rebuild_tensor(storage, offset, size, stride)


class _RebuildOfBytes:
    """As `_Rebuild`, of a storage of bytes and the type of its numbers: so fp8 and large unsigned types are stored."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Tensor:
        _requires_grad, _hooks, dtype, *_ = rest
        return torch.empty(0, dtype=dtype).set_(storage._untyped_storage, offset, size, stride)


class _Bytes:
    """The type of a storage of bytes. The class itself would have attributes that a file could set."""

    __slots__ = ()
    dtype = torch.uint8


class _First:
    """Parameters are tensors with settings that do not matter here."""

    __slots__ = ()

    def __call__(self, tensor: Any, *_: Any) -> Any:
        return tensor


class _Unwrap:
    """Tensors with attributes name the function that makes the bare tensor, and its arguments."""

    __slots__ = ()

    def __call__(self, rebuild: Any, _type: Any, args: tuple[Any, ...], _state: Any) -> Any:
        return rebuild(*args) if isinstance(rebuild, _Rebuild | _RebuildOfBytes | _First) else Placeholder()


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _Rebuild(),
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
    ("torch._utils", "_rebuild_tensor_v3"): _RebuildOfBytes(),
    ("torch", "UntypedStorage"): _Bytes(),
    ("torch.storage", "UntypedStorage"): _Bytes(),
    ("torch._utils", "_rebuild_parameter"): _First(),
    ("torch._utils", "_rebuild_parameter_with_state"): _First(),
    ("torch._tensor", "_rebuild_from_type_v2"): _Unwrap(),
    ("torch.nn.parameter", "Parameter"): _First(),
}


class Unpickler(pickle.Unpickler):
    """Looks names up in a short list and nowhere else; `torch.load` adds storages."""

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        return type("Placeholder", (Placeholder,), {})  # a class of its own: a file may hold it as a dictionary's key


def load(file: BinaryIO, **options: Any) -> Any:
    """What `pickle.load` is to pickle."""
    return Unpickler(file, **options).load()
