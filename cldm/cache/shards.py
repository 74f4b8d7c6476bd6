"""Tensors by number in sharded safetensors files: written one whole shard at a time, read one tensor at a time."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from cldm.launched import deal
from cldm.weights.saving import save_weights

_OPEN = 128  # files that a process keeps mapped


class Shards:
    """The tensors 0 to `count` - 1 of one kind, `size` of them a file.

    Args:
        folder: Of the files, `<kind>-00000.safetensors` and so on.
        kind: First part of their names.
        count: Of all tensors.
        size: Tensors in a file.
    """

    def __init__(self, folder: Path, kind: str, count: int, size: int = 256):
        self.folder = Path(folder)
        self.kind = kind
        self.count = count
        self.size = size

    def file(self, shard: int) -> Path:
        return self.folder / f"{self.kind}-{shard:05}.safetensors"

    def missing(self) -> list[int]:
        """The shards that are not there yet; a file is there if it is complete, since it is renamed at the end."""
        return [shard for shard in range(-(-self.count // self.size)) if not self.file(shard).is_file()]

    def numbers(self, shard: int) -> range:
        """Of the tensors in a shard."""
        return range(shard * self.size, min((shard + 1) * self.size, self.count))

    def fill(self, make: Callable[[list[int]], Iterable[Tensor]], progress: Callable[[Iterable], Iterable]) -> None:
        """Make what is missing; several processes that are told to at once share it.

        Args:
            make: Tensors for some numbers, in their order.
            progress: Wraps the list of missing shards, to show how far it is.
        """
        for shard in progress(deal(self.missing())):
            if self.file(shard).exists():  # by now, from another process of the run
                continue
            numbers = list(self.numbers(shard))
            tensors = {str(number): tensor for number, tensor in zip(numbers, make(numbers), strict=True)}
            if not self.file(shard).exists():
                save_weights(tensors, self.file(shard), replace=True)  # one made at the same time has the same content

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Tensor:
        """One tensor, on the CPU.

        Raises:
            IndexError: If there is none of this number.
            ValueError: If its file is missing or damaged, with what to do.
        """
        if not 0 <= number < self.count:
            raise IndexError(f"{self.kind} has the numbers 0 to {self.count - 1}, got {number}")
        file = self.file(number // self.size)
        try:
            return _opened(file).get_tensor(str(number))
        except (OSError, SafetensorError) as error:
            raise ValueError(f"cannot read {file}: {error}; remove it, and start again to make it anew") from error

    def __iter__(self) -> Iterator[Tensor]:
        return (self[number] for number in range(self.count))


@lru_cache(maxsize=_OPEN)
def _opened(file: Path) -> Any:
    return safe_open(file, framework="pt", device="cpu")
