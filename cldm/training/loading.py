"""Training data for Lightning: the same samples in the same order, wherever a run begins and however many share it."""

import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cldm.training.order import Place, Share, epoch_order

_GRACE = 60  # seconds that a reading process goes on after SIGTERM, so that the training process can save first


@runtime_checkable
class Stream(Protocol):
    """A dataset that is read in an order of its own, such as shards larger than a disk.

    Its order follows from its seed and the epoch alone. Processes, their readers and a resumed run each ask for the
    positions in this order that they need, in ascending order; others are skipped as cheaply as can be.
    """

    def __len__(self) -> int:
        """Samples in an epoch."""

    def read(self, epoch: int, positions: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Items at these positions in the order of an epoch; each with `index`, a number of its own."""


class TrainingData(pl.LightningDataModule):
    """Batches of a dataset, from a place in an epoch on, shared by all processes.

    The place goes into the training state. Each sample is seen once an epoch, up to the last incomplete global batch.

    Args:
        dataset: Of torch's kind, its items with `index`, as `cldm.data.Indexed` adds it; or a `Stream`.
        batch_size: Samples a step in each process.
        seed: Of the order.
        num_workers: Reading processes of each training process; 0 reads in the training process itself.
    """

    def __init__(self, dataset: Any, batch_size: int, seed: int = 0, num_workers: int = 0):
        super().__init__()
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.start = Place()

    @property
    def share(self) -> Share:
        """What this process sees."""
        trainer = self.trainer
        return Share(len(self.dataset), self.batch_size, trainer.global_rank, trainer.world_size, self.start)

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        loader = _StreamLoader if isinstance(self.dataset, Stream) else _OrderedLoader
        return loader(self.dataset, self.share, lambda: trainer.current_epoch, self.seed, self.num_workers)

    def state_dict(self) -> dict[str, int]:
        """Where the next batch begins."""
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return asdict(self.share.after(self.trainer.current_epoch, done))

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.start = Place(**state_dict)
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")  # it is, in a way of its own


class _Loader(DataLoader):
    """What both loaders share.

    Its length is a whole epoch's, also where it begins in the middle of one. Its readers' random numbers follow from
    (seed, epoch, process), and the training process's are left as they are.
    """

    def __init__(self, dataset: Any, share: Share, epoch: Callable[[], int], seed: int, num_workers: int, **how: Any):
        own = torch.Generator()
        super().__init__(dataset, num_workers=num_workers, generator=own, worker_init_fn=_worker, **how)
        self._share = share
        self._epoch = epoch
        self._seed = seed

    def __len__(self) -> int:
        return len(self._share)

    def __iter__(self) -> Any:
        drawn = np.random.SeedSequence((self._seed, self._epoch(), self._share.rank)).generate_state(1)
        self.generator.manual_seed(int(drawn[0]))
        return super().__iter__()


class _OrderedLoader(_Loader):
    """Batches of a dataset with places, in the order of `epoch_order`."""

    def __init__(self, dataset: Any, share: Share, epoch: Callable[[], int], seed: int, num_workers: int):
        batches = _Batches(partial(_indices, share, seed), epoch)
        super().__init__(dataset, share, epoch, seed, num_workers, batch_sampler=batches)


def _indices(share: Share, seed: int, epoch: int) -> Iterator[list[int]]:
    order = epoch_order(share.count, seed, epoch)
    return ([int(index) for index in order[batch.start : batch.stop]] for batch in share.batches(epoch))


class _Batches:
    """A batch sampler that looks which epoch it is each time it is begun."""

    def __init__(self, batches: Callable[[int], Iterator[list[int]]], epoch: Callable[[], int]):
        self.batches = batches
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        return self.batches(self.epoch())


class _StreamLoader(_Loader):
    """Batches of a `Stream`: each reader asks for every n-th batch of its process, since they are taken in turn."""

    def __init__(self, dataset: Stream, share: Share, epoch: Callable[[], int], seed: int, num_workers: int):
        self._reader = _Reader(dataset, share)
        super().__init__(self._reader, share, epoch, seed, num_workers, batch_size=share.batch_size, drop_last=True)

    def __iter__(self) -> Any:
        self._reader.epoch = self._epoch()  # read by the readers, which begin now
        return super().__iter__()


class _Reader(IterableDataset):
    def __init__(self, stream: Stream, share: Share):
        self.stream = stream
        self.share = share
        self.epoch = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        batches = islice(self.share.batches(self.epoch), number, None, count)
        return iter(self.stream.read(self.epoch, (position for batch in batches for position in batch)))


def _worker(number: int) -> None:
    """Let a reading process outlive the signals that end a run, since they are sent to all of its processes at once."""
    del number
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
