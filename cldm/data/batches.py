"""Samples to batches, and what is said where they do not go together."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import default_collate

from cldm.data.errors import DataError
from ldm.models.diffusion.draws import INDEX


def collate(samples: Sequence[dict[str, Any]], name_of: Callable[[int], str] = "sample {}".format) -> dict[str, Any]:
    """A batch of samples.

    Args:
        samples: Items of a dataset, each a dict.
        name_of: What an error calls the sample of an `index` in the items.

    Raises:
        DataError: If their arrays are of different sizes.
    """
    first = samples[0]
    for name, value in first.items():
        for other in samples[1:]:
            shapes = np.shape(value), np.shape(other.get(name, value))
            if shapes[0] != shapes[1]:
                raise DataError(
                    f"a batch needs samples of one size, got {name} {shapes[0]} of {_name(first, name_of)} and "
                    f"{shapes[1]} of {_name(other, name_of)}: give all one size, as size=512 does (with "
                    "framing=crop or pad where their aspects differ), or train with batch_size=1"
                )
    return default_collate(list(samples))


def _name(sample: dict[str, Any], name_of: Callable[[int], str]) -> str:
    return name_of(int(sample[INDEX])) if INDEX in sample else "a sample without an index"
