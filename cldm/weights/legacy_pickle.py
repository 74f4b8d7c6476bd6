"""What `torch.save` wrote before 2020, read without running code: five pickles, and then the bytes of each storage.

torch's own reader of this format extracts tar archives, and compares classes' source code with that in the file; this
one does neither.
"""

import os
import pickle
import struct
from collections.abc import Hashable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION, StorageType
from torch.storage import TypedStorage, UntypedStorage

from cldm.weights import restricted_pickle


def load(path: Path) -> Any:
    """What was given to `torch.save`, with placeholders for all that is neither a tensor nor plain data.

    Raises:
        EOFError: If the file is cut short.
        pickle.UnpicklingError: If it is another pickle. Files that are damaged otherwise raise what `pickle` does.
    """
    with path.open("rb") as file:
        if restricted_pickle.load(file) != MAGIC_NUMBER or restricted_pickle.load(file) != PROTOCOL_VERSION:
            raise pickle.UnpicklingError("it is a pickle, but none of torch.save")
        restricted_pickle.load(file)  # about the machine it was written on
        unpickler = _Unpickler(file)
        content = unpickler.load()
        keys = restricted_pickle.load(file)
        if set(keys) != set(unpickler.storages):
            raise pickle.UnpicklingError("its storages are not those of its tensors")
        for key in keys:
            _fill(*unpickler.storages[key], file)
    return content


class _Unpickler(restricted_pickle.Unpickler):
    """Makes storages of the right sizes, which are filled once it is done."""

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[Hashable, tuple[UntypedStorage, torch.dtype]] = {}
        self._limit = os.fstat(file.fileno()).st_size

    def find_class(self, module: str, name: str) -> Any:
        try:
            return StorageType(name)
        except KeyError:
            return super().find_class(module, name)

    def persistent_load(self, saved: Any) -> Any:
        kind, *data = saved
        if kind == "module":
            return data[0]  # and not the source code beside it
        storage_type, key, _device, count, view = data
        dtype = storage_type.dtype
        if key not in self.storages:
            size = count * dtype.itemsize
            if size > self._limit:
                raise EOFError(f"it is shorter than one of its tensors, of {size} bytes")
            self.storages[key] = UntypedStorage(size)[:], dtype  # a slice stays where it is, unlike a whole one
        storage, dtype = self.storages[key]
        if view is not None:
            _, first, view_count = view
            storage = storage[first * dtype.itemsize : (first + view_count) * dtype.itemsize]
        return TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def _fill(storage: UntypedStorage, dtype: torch.dtype, file: BinaryIO) -> None:
    (count,) = struct.unpack("<q", file.read(8))
    target = torch.empty(0, dtype=torch.uint8).set_(storage)
    if count * dtype.itemsize != len(target) or file.readinto(target.numpy()) != len(target):
        raise EOFError("it ends within a tensor, or one has another size than it should")
