"""In which order the samples of shards are trained: a matter of seed and epoch alone, reckoned without reading a shard.

Shards are shuffled, laid end to end, and cut into `lanes` of equal length. Each lane passes through a shuffle buffer,
and the lanes take turns: place p of the epoch is place p // lanes of lane p % lanes. Readers take every n-th place, so
where their number divides that of the lanes, each has lanes of its own, and every shard is read once an epoch, or twice
if a lane ends in it. With other numbers of readers the order is the same, and several of them read the same shards.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_STREAM = 0x7368  # sets these numbers apart from a sample's own, see ldm.models.diffusion.draws


@dataclass(frozen=True)
class Piece:
    """Samples `start` to `stop` - 1 of a shard, both counted from 0."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Shuffle:
    """What the order follows from, beside the epoch.

    Attributes:
        seed: 0 or more.
        lanes: Shards that are read from at the same time; no more are used than there are shards.
        buffer: Samples in all shuffle buffers together; 1 leaves each lane's samples in the shards' order.

    Raises:
        ValueError: If one of them is too small.
    """

    seed: int = 0
    lanes: int = 8
    buffer: int = 1000

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("lanes", 1), ("buffer", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


class Order:
    """The places of one epoch.

    Args:
        counts: Samples of each shard.
        shuffle: How they are mixed.
        epoch: 0 or more.
    """

    def __init__(self, counts: Sequence[int], shuffle: Shuffle, epoch: int):
        self.counts = np.asarray(counts, np.int64)
        self.shuffle = shuffle
        self.epoch = epoch
        self.lanes = max(1, min(shuffle.lanes, len(self.counts)))
        self.shards = self._rng(0).permutation(len(self.counts))
        self._ends = np.cumsum(self.counts[self.shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def lane_length(self, lane: int) -> int:
        """Samples of a lane; the first ones have one more where the number does not divide."""
        return len(self) // self.lanes + (lane < len(self) % self.lanes)

    def pieces(self, lane: int) -> list[Piece]:
        """What a lane reads, one after the other."""
        start = sum(self.lane_length(before) for before in range(lane))
        stop = start + self.lane_length(lane)
        pieces = []
        for place in range(int(np.searchsorted(self._ends, start, "right")), len(self.shards)):
            begins = self._ends[place] - self.counts[self.shards[place]]
            if begins >= stop:
                break
            within = max(start, begins) - begins, min(stop, self._ends[place]) - begins
            if within[1] > within[0]:
                pieces.append(Piece(int(self.shards[place]), int(within[0]), int(within[1])))
        return pieces

    def shuffled(self, lane: int) -> np.ndarray:
        """For each place of a lane, which of the samples that it reads comes out of its buffer, counted from 0."""
        length = self.lane_length(lane)
        size = min(-(-self.shuffle.buffer // self.lanes), length)
        chosen = (self._rng(1 + lane).random(length) * np.minimum(size, length - np.arange(length))).astype(np.int64)
        buffer, order = list(range(size)), np.empty(length, np.int64)
        for place, slot in enumerate(chosen.tolist()):
            order[place] = buffer[slot]
            if size + place < length:
                buffer[slot] = size + place
            else:
                buffer[slot] = buffer[-1]
                buffer.pop()
        return order

    def places(self) -> Iterator[tuple[int, int]]:
        """Shard and number in it of every place, in order; for tests, and to look up a place."""
        lanes = []
        for lane in range(self.lanes):
            read = [(piece.shard, number) for piece in self.pieces(lane) for number in range(piece.start, piece.stop)]
            lanes.append([read[i] for i in self.shuffled(lane)])
        for place in range(len(self)):
            yield lanes[place % self.lanes][place // self.lanes]

    def _rng(self, part: int) -> np.random.Generator:
        return np.random.default_rng((self.shuffle.seed, self.epoch, part, 0, _STREAM))
