"""Items of shards by their positions: each once, the same for any share, nothing read that is not wanted."""

from pathlib import Path

import numpy as np
import pytest

import sharded
from cldm.data.order import Order, Shuffle
from cldm.data.sharded import ShardedDataset
from cldm.data.shards import Shards, as_sample
from ldm.models.diffusion.draws import INDEX

SHUFFLE = Shuffle(seed=3, lanes=2, buffer=6)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return sharded.make(tmp_path_factory.mktemp("sharded"))


@pytest.fixture
def dataset(made) -> ShardedDataset:
    return ShardedDataset(made, sharded.load, SHUFFLE)


def indices(dataset: ShardedDataset, epoch: int, positions: range) -> list[int]:
    return [item[INDEX] for item in dataset.read(epoch, positions)]


def test_an_epoch_has_every_item_once_in_the_reckoned_order(dataset):
    whole = indices(dataset, 1, range(sharded.COUNT))
    assert sorted(whole) == list(range(sharded.COUNT)) != whole
    places = Order(dataset.shards.counts, SHUFFLE, 1).places()
    assert whole == [dataset.shards.first(shard) + number for shard, number in places]
    assert whole != indices(dataset, 2, range(sharded.COUNT))


def test_an_index_is_its_items_place_in_the_shards(dataset):
    shards = dataset.shards
    stored = [as_sample(shards.urls[s], n, raw) for s in range(len(shards.urls)) for n, raw in shards.read(s)]
    for item in dataset.read(0, range(sharded.COUNT)):
        assert item["txt"] == stored[item[INDEX]].prompt
        assert item["size"] == len(stored[item[INDEX]].target.content)


@pytest.mark.parametrize("positions", [range(0), range(7, 23), range(2, 23, 3), range(1, 23, 2), range(22, 23)])
def test_some_positions_give_what_they_have_in_the_whole(dataset, positions):
    assert indices(dataset, 0, positions) == [indices(dataset, 0, range(sharded.COUNT))[i] for i in positions]


def test_positions_may_come_one_by_one(dataset):
    whole = indices(dataset, 0, range(sharded.COUNT))
    assert [item[INDEX] for item in dataset.read(0, (i for i in (3, 4, 9, 20)))] == [whole[i] for i in (3, 4, 9, 20)]


def test_what_is_not_wanted_is_neither_loaded_nor_opened(made, monkeypatch):
    loaded, opened, read = [], [], Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, shard, *part: opened.append(shard) or read(self, shard, *part))
    dataset = ShardedDataset(made, lambda sample: loaded.append(sample) or {}, Shuffle(0, 1, 1))
    rest = list(dataset.read(0, range(20, sharded.COUNT)))
    assert len(loaded) == len(rest) == 3
    assert len(opened) <= 2


def test_no_more_samples_are_held_than_the_buffer_has(made, monkeypatch):
    seen, given = [], []
    monkeypatch.setattr("cldm.data.sharded.as_sample", lambda *what: seen.append(1) or as_sample(*what))
    dataset = ShardedDataset(made, sharded.load, Shuffle(0, 2, 6))
    for item in dataset.read(0, range(sharded.COUNT)):
        given.append(item)
        assert len(seen) - len(given) <= 6


def test_a_bad_sample_is_named(made):
    def refuse(sample):
        raise ValueError(f"{sample}: no")

    with pytest.raises(ValueError, match=r"shard-0000\d.tar, sample \d \(key 0000000\d\d_line\d+\): no"):
        list(ShardedDataset(made, refuse).read(0, range(1)))


def test_the_default_shuffle_mixes_a_thousand_samples_of_eight_shards(made):
    assert ShardedDataset(made, sharded.load).shuffle == Shuffle(0, 8, 1000)
    assert np.unique(indices(ShardedDataset(made, sharded.load), 0, range(sharded.COUNT))).size == sharded.COUNT
