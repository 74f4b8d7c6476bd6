"""Shards as a dataset, in an order that depends neither on the number of processes nor on that of their workers."""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cldm.data.order import Order, Piece, Shuffle
from cldm.data.shards import Shards, ShardSample, as_sample, find_shards
from cldm.data.watch import Board
from ldm.models.diffusion.draws import INDEX

DEFAULT_SHUFFLE = Shuffle()


class ShardedDataset:
    """Items of shards, by their positions in an epoch's order.

    Each item has its `sample_index`, which is its number in the whole dataset, whatever the order.

    Attributes that a reading process sets: `board`, where it is noted which sample is read.

    Args:
        where: See `cldm.data.shards.find_shards`.
        load: Makes an item, a dictionary, of a `ShardSample`.
        shuffle: How samples are mixed.

    Raises:
        FileNotFoundError: If there are no such shards.
        DataError: If their index is malformed.
    """

    def __init__(
        self,
        where: str | Path,
        load: Callable[[ShardSample], dict[str, Any]],
        shuffle: Shuffle = DEFAULT_SHUFFLE,
    ):
        self.shards: Shards = find_shards(where)
        self.load = load
        self.shuffle = shuffle
        self.board: Board | None = None

    def __len__(self) -> int:
        return len(self.shards)

    def name_of(self, index: int) -> str:
        """Which sample of which shard has this index."""
        return self.shards.name_of(index)

    def read(self, epoch: int, positions: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Items at some positions in an epoch's order.

        Samples at others are passed over without being decoded, and shards that have none of them are not opened.

        Args:
            epoch: 0 or more.
            positions: Ascending, from 0 to `len` - 1.

        Raises:
            DataError: If a shard or a sample cannot be used; names it.
        """
        order = Order(self.shards.counts, self.shuffle, epoch)
        positions = np.fromiter(positions, np.int64)
        lanes: dict[int, _Lane] = {}
        for row, lane in zip((positions // order.lanes).tolist(), (positions % order.lanes).tolist(), strict=True):
            if lane not in lanes:
                rows = positions[positions % order.lanes == lane] // order.lanes
                lanes[lane] = _Lane(self.shards, order, lane, rows, self._note)
            index, sample = lanes[lane].take(row)
            self._note(index)
            item = {**self.load(sample), INDEX: index}
            if self.board:
                self.board.end()
            yield item

    def _note(self, index: int) -> None:
        if self.board:
            self.board.begin(index)


class _Lane:
    """Reads a lane and gives its samples in the order in which they leave its shuffle buffer.

    Args:
        shards: To read from.
        order: Of the epoch.
        lane: Which one.
        rows: Its places that will be taken; samples of others are passed over.
        note: Told the index of the sample that is read next.
    """

    def __init__(self, shards: Shards, order: Order, lane: int, rows: np.ndarray, note: Callable[[int], None]):
        self.shards = shards
        self.order = order.shuffled(lane)
        self.note = note
        self._stream = self._read(order.pieces(lane), set(self.order[rows].tolist()))
        self._held: dict[int, tuple[int, ShardSample]] = {}

    def take(self, row: int) -> tuple[int, ShardSample]:
        """The sample at one of the places, with its index; each can be taken once."""
        number = int(self.order[row])
        while number not in self._held:
            read, index, sample = next(self._stream)
            self._held[read] = index, sample
        return self._held.pop(number)

    def _read(self, pieces: list[Piece], wanted: Collection[int]) -> Iterator[tuple[int, int, ShardSample]]:
        """The wanted samples in the shards' order: number in the lane, index in the dataset, sample."""
        before = 0
        for piece in pieces:
            in_lane = {n: before + n - piece.start for n in range(piece.start, piece.stop)}
            numbers = [n for n in in_lane if in_lane[n] in wanted]
            if numbers:
                first, url = self.shards.first(piece.shard), self.shards.urls[piece.shard]
                self.note(first + numbers[0])
                for number, raw in self.shards.read(piece.shard, numbers[0], numbers[-1] + 1):
                    if in_lane[number] in wanted:
                        yield in_lane[number], first + number, as_sample(url, number, raw)
                        self.note(first + min(number + 1, numbers[-1]))
            before += piece.stop - piece.start
