"""Samples to batches."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from cldm.data import Indexed
from cldm.data.batches import collate
from cldm.data.errors import DataError
from cldm.data.watch import explained
from cldm.training import TrainingData
from ldm.models.diffusion.draws import INDEX


class Photos:
    """Rows whose images are as large as they are."""

    def __init__(self, *shapes: tuple[int, ...]):
        self.shapes = shapes

    def __len__(self) -> int:
        return len(self.shapes)

    def name_of(self, index: int) -> str:
        return f"prompt.json, line {index + 1}"

    def __getitem__(self, index: int) -> dict:
        return {"jpg": np.zeros(self.shapes[index], np.float32), "txt": "a photo"}


def test_samples_of_one_size_are_a_batch():
    batch = collate([{INDEX: k, **Photos((4, 6, 3))[0]} for k in range(2)])
    assert batch["jpg"].shape == (2, 4, 6, 3)
    assert batch["txt"] == ["a photo", "a photo"]
    assert torch.equal(batch[INDEX], torch.arange(2))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_samples_of_different_sizes_are_named_with_what_to_do(num_workers):
    data = TrainingData(Indexed(Photos((4, 6, 3), (6, 4, 3))), 2, num_workers=num_workers, timeout=60)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, current_epoch=0)
    with pytest.raises(DataError) as refused, explained(data.board):
        list(data.train_dataloader())
    message = str(refused.value)
    assert re.match(r"a batch needs samples of one size, got jpg \(., ., 3\) of prompt.json, line", message)
    assert {"line 1", "line 2"} <= set(re.findall(r"line \d", message))
    assert "give all one size, as size=512 does" in message
    assert message.endswith("or train with batch_size=1")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_samples_keep_their_names_where_others_are_held_out(num_workers):
    photos = Indexed(Photos(*[(4, 6, 3)] * 4, (6, 4, 3)))
    data = TrainingData(Subset(photos, [3, 4]), 2, num_workers=num_workers, timeout=60)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, current_epoch=0)
    with pytest.raises(DataError) as refused, explained(data.board):
        list(data.train_dataloader())
    assert set(re.findall(r"line \d", str(refused.value))) == {"line 4", "line 5"}


def test_samples_of_a_stream_are_called_by_their_index():
    class Stream(Photos):
        def read(self, epoch, positions):
            return ({**self[position], INDEX: position} for position in positions)

    data = TrainingData(Stream((4, 6, 3), (6, 4, 3)), 2)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, current_epoch=0)
    with pytest.raises(DataError, match=r"of prompt.json, line 1 and .* of prompt.json, line 2: give all one size"):
        list(data.train_dataloader())
