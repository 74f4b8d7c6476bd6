"""Training data for Lightning: the same samples in the same order, wherever a run begins and however many share it."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cldm.data.batches import collate
from cldm.data.reading import Reading
from cldm.data.watch import Board, begun, names_by_index, names_of
from cldm.training.order import Place, Share, epoch_order


@runtime_checkable
class Stream(Protocol):
    """A dataset that is read in an order of its own, such as shards larger than a disk.

    Its order follows from its seed and the epoch alone. Processes, their readers and a resumed run each ask for the
    positions in this order that they need, in ascending order; others are skipped as cheaply as can be. Where it has an
    attribute `board`, its reading processes set a `cldm.data.watch.Board`, for it to write which sample it begins.
    """

    def __len__(self) -> int:
        """Samples in an epoch."""

    def read(self, epoch: int, positions: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Items at these positions in the order of an epoch; each with `sample_index`, a number of its own."""


class TrainingData(pl.LightningDataModule):
    """Batches of a dataset, from a place in an epoch on, shared by all processes.

    The place goes into the training state. Each sample is seen once an epoch, up to the last incomplete global batch.

    Args:
        dataset: Of torch's kind, its items with `sample_index`, as `cldm.data.Indexed` adds it; or a `Stream`.
        batch_size: Samples a step in each process.
        seed: Of the order.
        num_workers: Reading processes of each training process; 0 reads in the training process itself.
        timeout: Seconds to wait for them; 0 waits for ever.

    Attributes:
        board: What the reading processes are at, for `cldm.data.watch.explained`; by the dataset's method `name_of`.
    """

    def __init__(self, dataset: Any, batch_size: int, seed: int = 0, num_workers: int = 0, timeout: float = 0):
        super().__init__()
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.timeout = timeout
        self.board = Board(num_workers, names_of(dataset))
        self.start = Place()

    @property
    def share(self) -> Share:
        """What this process sees."""
        trainer = self.trainer
        return Share(len(self.dataset), self.batch_size, trainer.global_rank, trainer.world_size, self.start)

    def train_dataloader(self) -> Iterable[dict[str, Any]]:
        trainer = self.trainer
        loader = _StreamLoader if isinstance(self.dataset, Stream) else _OrderedLoader
        reading = Reading(self.num_workers, self.timeout, self.board)
        return loader(self.dataset, self.share, lambda: trainer.current_epoch, self.seed, reading)

    def state_dict(self) -> dict[str, int]:
        """Where the next batch begins."""
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return asdict(self.share.after(self.trainer.current_epoch, done))

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.start = Place(**state_dict)
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")  # it is, in a way of its own


class _OrderedLoader(DataLoader):
    """Batches of a dataset with places, in the order of `epoch_order`.

    Its length is a whole epoch's, also where it begins in the middle of one. Its readers' random numbers follow from
    (seed, epoch, process), and the training process's are left as they are.
    """

    def __init__(self, dataset: Any, share: Share, epoch: Callable[[], int], seed: int, reading: Reading):
        self._share, self._epoch, self._seed, self._board = share, epoch, seed, reading.board
        together = partial(collate, name_of=names_by_index(dataset))
        super().__init__(
            reading.watched(dataset), batch_sampler=_Batches(self._batches), collate_fn=together, **reading.options()
        )

    def __len__(self) -> int:
        return len(self._share)

    def __iter__(self) -> Any:
        self.generator.manual_seed(_seed_of(self._seed, self._epoch(), self._share))
        return begun(self._board, super().__iter__)

    def _batches(self) -> Iterator[list[int]]:
        order = epoch_order(self._share.count, self._seed, self._epoch())
        return ([int(order[position]) for position in batch] for batch in self._share.batches(self._epoch()))


class _Batches:
    """A batch sampler that asks for its batches each time it is begun."""

    def __init__(self, batches: Callable[[], Iterator[list[int]]]):
        self._batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return self._batches()


class _StreamLoader:
    """Batches of a `Stream`; as `_OrderedLoader`, but readers give samples in turn, of which batches are made here.

    So each reader can have parts of the stream to itself, whichever batch their samples are for.
    """

    def __init__(self, dataset: Stream, share: Share, epoch: Callable[[], int], seed: int, reading: Reading):
        self._dataset, self._share, self._epoch, self._seed = dataset, share, epoch, seed
        self._board = reading.board
        self._options = reading.options()
        if workers := reading.num_workers:
            self._options["prefetch_factor"] = max(2, -(-2 * share.batch_size // workers))  # two batches in all

    def __len__(self) -> int:
        return len(self._share)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._options["generator"].manual_seed(_seed_of(self._seed, self._epoch(), self._share))
        reader = _Reader(self._dataset, self._share, self._epoch(), self._board)
        items = begun(self._board, DataLoader(reader, batch_size=None, **self._options).__iter__)
        while batch := list(islice(items, self._share.batch_size)):
            yield collate(batch, names_by_index(self._dataset))


class _Reader(IterableDataset):
    """What one reading process reads."""

    def __init__(self, stream: Stream, share: Share, epoch: int, board: Board):
        self.stream = stream
        self.share = share
        self.epoch = epoch
        self.board = board

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        part = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None and hasattr(self.stream, "board"):  # of this process's copy
            self.stream.board = self.board
        return iter(self.stream.read(self.epoch, self.share.positions(self.epoch, *part)))


def _seed_of(seed: int, epoch: int, share: Share) -> int:
    return int(np.random.SeedSequence((seed, epoch, share.rank)).generate_state(1)[0])
