"""A small folder and its shards, for tests."""

from pathlib import Path

import numpy as np

from cldm.data import Sample
from cldm.data.make_shards import make_shards
from cldm.fill50k import make_fill50k

COUNT = 23
PER_SHARD = 4


def make(folder: Path) -> Path:
    """`folder`/f with rows and `folder`/s with their shards; returns the latter."""
    make_fill50k(folder / "f", COUNT, 64, workers=1)
    return make_shards(folder / "f", folder / "s", PER_SHARD).parent


def load(sample: Sample) -> dict[str, object]:
    """An item that is quick to make."""
    return {"txt": sample.prompt, "size": np.array(len(sample.target.content))}
