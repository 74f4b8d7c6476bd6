"""The order of the training data: one for a seed and an epoch, however many processes share it.

Samples go by *global batches*, what all processes see in one step. Of a global batch, processes take samples in turn.
So two processes with batches of b see in each step what one with a batch of 2b sees.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from cldm.data import DataError
from ldm.models.diffusion.draws import Purpose


@dataclass(frozen=True)
class Place:
    """Where a run is in its data.

    Attributes:
        epoch: Counted from 0.
        samples: Seen by all processes together in this epoch.
    """

    epoch: int = 0
    samples: int = 0


@dataclass(frozen=True)
class Share:
    """What one process sees of each epoch.

    Attributes:
        count: Samples in the dataset.
        batch_size: Samples a step in this process.
        rank: Of the process, from 0.
        world: Processes.
        start: Where the run begins; other epochs are seen from their first sample on.

    Raises:
        DataError: If the dataset is smaller than one step of all processes.
    """

    count: int
    batch_size: int
    rank: int = 0
    world: int = 1
    start: Place = field(default_factory=Place)

    def __post_init__(self):
        if self.count < self.step:
            raise DataError(
                f"one step takes {self.step} samples (batch_size={self.batch_size}, {self.world} processes), but the "
                f"dataset has {self.count}: lower batch_size, or add data"
            )

    @property
    def step(self) -> int:
        """Samples of all processes in one step."""
        return self.batch_size * self.world

    def __len__(self) -> int:
        """Batches of a whole epoch; what does not fill a global batch is left out."""
        return self.count // self.step

    def before(self, epoch: int) -> int:
        """Batches of an epoch that count as done when the run begins with `start`; the others follow."""
        return len(self) - (self.count - self._first(epoch)) // self.step

    def after(self, epoch: int, batches: int) -> Place:
        """The place after so many batches of an epoch, those before the start among them."""
        if batches >= len(self):
            return Place(epoch + 1)
        return Place(epoch, self._first(epoch) + (batches - self.before(epoch)) * self.step)

    def batches(self, epoch: int) -> Iterator[range]:
        """This process's batches of an epoch, as positions in the epoch's order."""
        for first in range(self._first(epoch), self._last(epoch), self.step):
            yield range(first + self.rank, first + self.step, self.world)

    def positions(self, epoch: int, reader: int = 0, readers: int = 1) -> range:
        """What one of this process's readers reads of them, if the readers give their samples in turn."""
        return range(self._first(epoch) + reader * self.world + self.rank, self._last(epoch), readers * self.world)

    def _first(self, epoch: int) -> int:
        return self.start.samples if epoch == self.start.epoch else 0

    def _last(self, epoch: int) -> int:
        """Where what does not fill a global batch begins."""
        return self._first(epoch) + (len(self) - self.before(epoch)) * self.step


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The indices 0 to `count` - 1 in the order of an epoch, int64 (count,)."""
    return np.random.default_rng((seed, epoch, 0, Purpose.ORDER)).permutation(count)
