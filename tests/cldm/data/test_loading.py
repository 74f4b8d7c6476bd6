"""Batches of shards: the same for any number of processes and workers, from any place on; watched DataLoaders."""

import pytest
import torch

import sharded
from cldm.data import Indexed
from cldm.data.loading import ShardLoader, Start, WatchedLoader
from cldm.data.order import Shuffle
from cldm.data.sharded import ShardedDataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> ShardedDataset:
    return ShardedDataset(sharded.make(tmp_path_factory.mktemp("loading")), sharded.load, Shuffle(1, 2, 5))


def batches(loader: ShardLoader) -> list[list[int]]:
    read = [batch["index"].tolist() for batch in loader]
    assert len(read) == len(loader)
    return read


def test_batches_are_full_and_have_each_sample_once(dataset):
    read = batches(ShardLoader(dataset, 4))
    assert [len(batch) for batch in read] == [4] * 5
    assert len({index for batch in read for index in batch}) == 20


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_do_not_change_the_batches(dataset, workers):
    assert batches(ShardLoader(dataset, 5, workers, timeout=60)) == batches(ShardLoader(dataset, 5))


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 3), (3, 2), (6, 1)])
def test_processes_share_the_same_global_batches(dataset, world_size, batch_size):
    alone = [set(batch) for batch in batches(ShardLoader(dataset, 6))]
    each = []
    for rank in range(world_size):
        loader = ShardLoader(dataset, batch_size)
        loader.start(0, 0, rank, world_size)
        each.append(batches(loader))
    together = [[index for part in parts for index in part] for parts in zip(*each, strict=True)]
    assert [set(batch) for batch in together] == alone
    assert all(len(set(batch)) == 6 for batch in together)


def test_a_resumed_epoch_has_the_rest_also_with_other_processes(dataset):
    whole = batches(ShardLoader(dataset, 4))
    loader = ShardLoader(dataset, 4)
    loader.start(0, samples_seen=8)
    assert batches(loader) == whole[2:]
    halves = []
    for rank in range(2):
        half = ShardLoader(dataset, 2)
        half.start(0, 8, rank, 2)
        halves.append(batches(half))
    assert [set(a + b) for a, b in zip(*halves, strict=True)] == [set(batch) for batch in whole[2:]]


def test_lightnings_epochs_go_on_from_the_start(dataset):
    loader = ShardLoader(dataset, 4)
    loader.start(3, samples_seen=8)
    loader.sampler.set_epoch(3)
    assert len(loader) == 3
    loader.sampler.set_epoch(4)
    fresh = ShardLoader(dataset, 4)
    fresh.start(4)
    assert batches(loader) == batches(fresh)
    assert len(loader) == 5


def test_reading_leaves_the_processs_random_numbers_alone(dataset):
    state = torch.get_rng_state()
    batches(ShardLoader(dataset, 4))
    assert torch.equal(torch.get_rng_state(), state)


def test_too_few_samples_for_a_step_are_an_error(dataset):
    with pytest.raises(ValueError, match=r"one step takes 24 samples \(batch_size=12, 2 processes\).* has 23"):
        ShardLoader(dataset, 12).start(0, 0, 0, 2)


@pytest.mark.parametrize("given", [{"epoch": -1}, {"samples_seen": -1}, {"rank": 1}, {"rank": 2, "world_size": 2}])
def test_starts_that_make_no_sense_are_refused(given):
    with pytest.raises(ValueError, match="must be 0 or more, and rank below world_size"):
        Start(**given)


def test_workers_take_turns_at_a_processs_samples():
    start = Start(0, 10, rank=1, world_size=2)
    alone = list(start.positions(40))
    shares = [list(start.positions(40, worker, 3)) for worker in range(3)]
    assert alone == list(range(11, 40, 2))
    assert [shares[i % 3][i // 3] for i in range(len(alone))] == alone


@pytest.mark.parametrize("workers", [0, 1])
def test_a_watched_loader_gives_what_torchs_does(workers):
    items = Indexed([{"txt": str(i)} for i in range(7)])
    loader = WatchedLoader(items, num_workers=workers, timeout=60, batch_size=2, drop_last=True)
    assert [batch["txt"] for batch in loader] == [["0", "1"], ["2", "3"], ["4", "5"]]
    assert len(loader) == 3
