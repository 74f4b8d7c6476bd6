"""What chance decides for the samples of a training step, drawn on the CPU for each sample by itself.

Every number follows from (seed, epoch, index of the sample, what it is for) alone. So neither a resume, nor the number
of processes, nor the batch that a sample falls into changes it, as a generator that all samples share would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

INDEX = "sample_index"
"""Key in a batch of the samples' places in the dataset; no name that a dataset of one's own is likely to have."""


class Purpose(IntEnum):
    """What numbers are for; each has a stream of its own, so that settings of one leave the others alone."""

    TIMESTEP = 0
    DROPOUT = 1
    POSTERIOR = 2
    NOISE = 3
    OFFSET = 4
    ORDER = 100  # of the samples in an epoch: `cldm.training.order`


@dataclass(frozen=True)
class Draws:
    """The draws of a batch.

    Attributes:
        seed: Of the run, 0 or more.
        epoch: Counted from 0.
        indices: The samples' places in the dataset.
    """

    seed: int
    epoch: int
    indices: Sequence[int]

    def __post_init__(self):
        if min(self.seed, self.epoch, *self.indices) < 0:
            raise ValueError(f"seed, epoch and indices must be 0 or more, got {self}")

    @classmethod
    def fresh(cls, count: int) -> "Draws":
        """Draws for `count` samples whose places are not known, by a seed from torch's generator."""
        return cls(int(torch.randint(2**63 - 1, ())), 0, range(count))

    def timesteps(self, count: int) -> Tensor:
        """Uniform time steps from 0 to `count` - 1, int64 (b,)."""
        return torch.tensor([int(rng.integers(count)) for rng in self._streams(Purpose.TIMESTEP)])

    def dropped(self, share: float) -> Tensor:
        """Which samples lose their prompts, bool (b,); what is dropped at one share is so at every larger one."""
        return torch.tensor([rng.random() < share for rng in self._streams(Purpose.DROPOUT)])

    def posterior(self, like: Tensor) -> Tensor:
        """Standard normal numbers that sample the autoencoder's posterior; shape and device as `like`, float32."""
        return self._normal(Purpose.POSTERIOR, like)

    def noise(self, like: Tensor, offset: float = 0.0) -> Tensor:
        """Standard normal noise that the latents get; shape and device as `like` (b, c, h, w), float32.

        Args:
            like: The latents.
            offset: Standard deviation of what is added to each channel as a whole, so that the brightness of a whole
                image is learnt as well.
        """
        noise = self._normal(Purpose.NOISE, like)
        return noise + offset * self._normal(Purpose.OFFSET, like[:, :, :1, :1]) if offset else noise

    def _normal(self, purpose: Purpose, like: Tensor) -> Tensor:
        each = [rng.standard_normal(tuple(like.shape[1:]), dtype=np.float32) for rng in self._streams(purpose)]
        return torch.from_numpy(np.stack(each)).to(like.device)

    def _streams(self, purpose: Purpose) -> list[np.random.Generator]:
        return [np.random.default_rng((self.seed, self.epoch, index, purpose)) for index in self.indices]
