"""Batches of a dataset, read by worker processes whose failures name the sample."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from cldm.data.sharded import ShardedDataset
from cldm.data.watch import Board, Watched, explained, names_of


class WatchedLoader(DataLoader):
    """A DataLoader of a dataset with a length; a worker that dies or hangs ends in an error that names the sample.

    Args:
        dataset: Its method `name_of`, or that of the dataset in it, says which sample an index is.
        num_workers: Processes that read; 0 reads in this one.
        timeout: Seconds to wait for a batch from them; 0 waits for ever.
        options: torch's other ones.
    """

    def __init__(self, dataset: Any, *, num_workers: int = 0, timeout: float = 0, **options: Any):
        self.board = Board(num_workers, names_of(dataset))
        watched = Watched(dataset, self.board) if num_workers else dataset
        super().__init__(watched, num_workers=num_workers, timeout=timeout if num_workers else 0, **options)

    def __iter__(self) -> Iterator[Any]:
        with explained(self.board):
            yield from super().__iter__()


@dataclass(frozen=True)
class Start:
    """Where the reading of shards starts, and which share of it is a process's.

    Process `rank` takes every `world_size`-th sample. So all of them together have the same global batches whatever
    their number, and each has lanes of its own where that number divides the lanes'.

    Attributes:
        epoch: 0 or more; the order follows from it and the seed.
        samples_seen: Of this epoch, by all processes together, however many they were.
        rank: Of this process.
        world_size: Number of processes.

    Raises:
        ValueError: If they do not go together.
    """

    epoch: int = 0
    samples_seen: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.epoch < 0 or self.samples_seen < 0 or not 0 <= self.rank < self.world_size:
            raise ValueError(f"epoch, samples_seen and rank must be 0 or more, and rank below world_size, got {self}")

    def positions(self, count: int, worker: int = 0, workers: int = 1) -> range:
        """A worker's share of the process's: what it reads of an epoch of `count` samples.

        The workers' samples, taken in turn, are the process's in their order.
        """
        first = self.samples_seen + worker * self.world_size + self.rank
        return range(first, count, workers * self.world_size)


class ShardLoader:
    """Batches of shards; every one is full, and the epoch's last incomplete global batch is left out.

    It starts at the first sample of epoch 0 in one process, until `start` says otherwise. Lightning's `set_epoch` goes
    on to the first sample of the next epoch.

    Args:
        dataset: The shards.
        batch_size: Samples a batch in this process.
        num_workers: Processes that read; 0 reads in this one.
        timeout: Seconds to wait for a sample from them; 0 waits for ever.
    """

    def __init__(self, dataset: ShardedDataset, batch_size: int, num_workers: int = 0, timeout: float = 0):
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.timeout = timeout if num_workers else 0
        self.board = Board(num_workers, dataset.name_of)
        self.begins = Start()
        self.start(0)

    def start(self, epoch: int, samples_seen: int = 0, rank: int = 0, world_size: int = 1) -> None:
        """Say where the next iteration starts, and which share of it is this process's; see `Start`.

        Raises:
            ValueError: If they do not go together, or the shards have too few samples for one step.
        """
        if len(self.dataset) < self.batch_size * world_size:
            raise ValueError(
                f"one step takes {self.batch_size * world_size} samples (batch_size={self.batch_size}, {world_size} "
                f"processes), but {self.dataset.shards.where} has {len(self.dataset)}: lower batch_size, or add data"
            )
        self.begins = Start(epoch, samples_seen, rank, world_size)

    @property
    def sampler(self) -> "ShardLoader":
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the first sample of another epoch; the one that was started goes on where it is."""
        if epoch != self.begins.epoch:
            self.start(epoch, 0, self.begins.rank, self.begins.world_size)

    @property
    def _usable(self) -> int:
        """Positions in an epoch that full global batches have."""
        step = self.batch_size * self.begins.world_size
        return self.begins.samples_seen + max(0, len(self.dataset) - self.begins.samples_seen) // step * step

    def __len__(self) -> int:
        return len(self.begins.positions(self._usable)) // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.dataset.board = self.board if self.num_workers else None
        per_worker = max(2, -(-2 * self.batch_size // self.num_workers)) if self.num_workers else None
        items = DataLoader(
            _Reader(self.dataset, self.begins, self._usable),
            batch_size=None,  # samples, which the workers give in turn; batches are made here
            num_workers=self.num_workers,
            timeout=self.timeout,
            prefetch_factor=per_worker,  # two batches in all
            generator=torch.Generator(),  # the process's is left as it is
        )
        with explained(self.board):
            batch: list[dict[str, Any]] = []
            for item in items:
                batch.append(item)
                if len(batch) == self.batch_size:
                    yield default_collate(batch)
                    batch = []


class _Reader(IterableDataset):
    """What one worker reads."""

    def __init__(self, dataset: ShardedDataset, begins: Start, count: int):
        super().__init__()
        self.dataset = dataset
        self.begins = begins
        self.count = count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        share = (worker.id, worker.num_workers) if worker else (0, 1)
        return self.dataset.read(self.begins.epoch, self.begins.positions(self.count, *share))
