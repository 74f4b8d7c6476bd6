"""Batches for Lightning: order, readers, streams, shards; readers that are killed, crash or hang, for real."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import active_children
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Subset

import sharded
from cldm.data import DataError, Indexed
from cldm.data.order import Shuffle
from cldm.data.sharded import ShardedDataset
from cldm.data.watch import Watched, WorkerFailure, explained
from cldm.training.loading import Stream, TrainingData
from cldm.training.order import Place, epoch_order
from ldm.models.diffusion.draws import INDEX

COUNT = 13


class Items:
    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict:
        return {"drawn": torch.rand(())}


class Shards:
    """A stream in the order of `epoch_order`, which notes what it was asked for."""

    def __len__(self) -> int:
        return COUNT

    def read(self, epoch: int, positions: Iterable[int]) -> Iterator[dict]:
        order = epoch_order(COUNT, 5, epoch)
        for position in positions:
            yield {INDEX: int(order[position]), "drawn": torch.rand(())}


def training_data(dataset, batch_size=2, rank=0, world=1, epoch=0, **reading) -> TrainingData:
    data = TrainingData(dataset, batch_size, seed=5, **reading)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, current_epoch=epoch)
    return data


def batches(dataset, *how, start=None, **given) -> list[list[int]]:
    data = training_data(dataset, *how, **given)
    if start is not None:
        data.load_state_dict({"epoch": start.epoch, "samples": start.samples})
    return [batch[INDEX].tolist() for batch in data.train_dataloader()]


@pytest.fixture(params=[lambda: Indexed(Items()), Shards], ids=["places", "stream"])
def dataset(request):
    return request.param()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_readers_do_not_change_the_order(dataset, num_workers):
    order = epoch_order(COUNT, 5, 1).tolist()
    assert batches(dataset, epoch=1, num_workers=num_workers) == [order[i : i + 2] for i in range(0, 12, 2)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_goes_on_from_a_place(dataset, num_workers):
    given = {"epoch": 3, "num_workers": num_workers}
    assert batches(dataset, start=Place(3, 4), **given) == batches(dataset, **given)[2:]
    assert batches(dataset, start=Place(2, 4), **given) == batches(dataset, **given)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_processes_share_each_step(dataset, num_workers):
    parts = [batches(dataset, rank=rank, world=2, num_workers=num_workers) for rank in (0, 1)]
    together = [[a[0], b[0], a[1], b[1]] for a, b in zip(*parts, strict=True)]
    assert together == batches(dataset, batch_size=4)


def test_a_stream_is_told_from_a_dataset_with_places():
    assert isinstance(Shards(), Stream)
    assert not isinstance(Indexed(Items()), Stream)


def test_the_process_generator_is_not_moved(dataset):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    batches(dataset, num_workers=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ShardedDataset:
    """23 samples, 4 in a shard, read in two lanes."""
    return ShardedDataset(sharded.make(tmp_path_factory.mktemp("loading")), sharded.load, Shuffle(1, 2, 5))


def test_batches_of_shards_are_full_and_have_each_sample_once(shards):
    assert isinstance(shards, Stream)
    read = batches(shards, 4)
    assert [len(batch) for batch in read] == [4] * 5
    assert len({index for batch in read for index in batch}) == 20


@pytest.mark.parametrize("num_workers", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_readers_do_not_change_the_batches_of_shards(shards, num_workers):
    assert batches(shards, 5, num_workers=num_workers, timeout=60) == batches(shards, 5)


@pytest.mark.parametrize(("world", "batch_size"), [(2, 3), (3, 2), (6, 1)])
def test_processes_share_the_global_batches_of_shards(shards, world, batch_size):
    each = [batches(shards, batch_size, rank, world) for rank in range(world)]
    together = [{index for part in parts for index in part} for parts in zip(*each, strict=True)]
    assert together == [set(batch) for batch in batches(shards, 6)]
    assert all(len(batch) == 6 for batch in together)


def test_an_epoch_of_shards_goes_on_also_with_other_processes(shards):
    whole = batches(shards, 4, epoch=3)
    assert batches(shards, 4, epoch=3, start=Place(3, 8)) == whole[2:]
    assert batches(shards, 4, epoch=3, start=Place(2, 8)) == whole
    halves = [batches(shards, 2, rank, 2, epoch=3, start=Place(3, 8)) for rank in (0, 1)]
    assert [set(a + b) for a, b in zip(*halves, strict=True)] == [set(batch) for batch in whole[2:]]


def test_too_few_samples_for_a_step_are_an_error(shards):
    with pytest.raises(DataError, match=r"one step takes 24 samples \(batch_size=12, 2 processes\).* has 23"):
        batches(shards, 12, world=2)


class Trap:
    """A dataset whose item 3 ends, stops or fails in the process that reads it."""

    def __init__(self, fall: Callable[[], None]):
        self.fall = fall

    def __len__(self) -> int:
        return 6

    def name_of(self, index: int) -> str:
        return f"prompt.json, line {index + 1}"

    def __getitem__(self, index: int) -> dict[str, int]:
        if index == 3:
            self.fall()
        return {"value": index}


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashed() -> None:
    os._exit(7)


def hung() -> None:
    time.sleep(60)


def failed() -> None:
    raise DataError("prompt.json, line 4: no image")


def read(dataset, timeout: float = 30, num_workers: int = 1) -> None:
    """All batches, of one sample each, as a training reads them."""
    data = training_data(dataset, 1, num_workers=num_workers, timeout=timeout)
    with explained(data.board):
        list(data.train_dataloader())


@pytest.mark.parametrize("fall", [killed, crashed])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_dead_reader_is_an_error_that_names_the_row(fall, num_workers):
    with pytest.raises(WorkerFailure, match=r"ended \(.*\) while it read prompt.json, line 4\..*fewer num_workers"):
        read(Indexed(Trap(fall)), num_workers=num_workers)


def test_a_row_keeps_its_name_where_others_are_held_out():
    with pytest.raises(WorkerFailure, match=r"while it read prompt.json, line 4\."):
        read(Subset(Indexed(Trap(killed)), [2, 3, 5]))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_is_wrong_with_a_sample_is_one_message(num_workers):
    with pytest.raises(DataError, match=r"^prompt.json, line 4: no image$"):
        read(Indexed(Trap(failed)), num_workers=num_workers)


@pytest.fixture
def _brief_goodbyes(monkeypatch):
    """Torch waits for so many seconds for each reader to end by itself."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)


@pytest.mark.usefixtures("_brief_goodbyes")
@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_reader_that_hangs_is_an_error_that_names_the_row_and_it_is_ended(num_workers):
    message = r"no data came for 2 seconds.* at prompt.json, line 4, for \d+ seconds.*higher worker_timeout"
    with pytest.raises(WorkerFailure, match=message):
        read(Indexed(Trap(hung)), timeout=2, num_workers=num_workers)
    assert not active_children()


@pytest.mark.usefixtures("_brief_goodbyes")
@pytest.mark.parametrize(
    ("fall", "message"),
    [(killed, "while it read"), pytest.param(hung, "no data came for 2 seconds", marks=pytest.mark.slow)],
)
def test_readers_of_shards_name_shard_and_sample(shards, fall, message):
    def load(sample):
        if sample.shard.endswith("shard-00002.tar"):
            fall()
        return {}

    dataset = ShardedDataset(shards.shards.where, load, Shuffle(0, 1, 1))
    with pytest.raises(WorkerFailure, match=rf"{message}.*shard-00002.tar, sample 0"):
        read(dataset, timeout=2 if fall is hung else 30)
    assert dataset.board is None, "the training process's own is as it was"


def test_a_death_that_is_told_elsewhere_is_explained_there():
    """Torch raises it wherever the program is when the reader dies, such as in the middle of a training step."""
    data = training_data(Trap(killed), num_workers=1)

    def training() -> None:
        items = iter(DataLoader(Watched(data.dataset, data.board), num_workers=1, batch_size=1, prefetch_factor=4))
        next(items)
        time.sleep(30)  # cut short by the error

    with pytest.raises(WorkerFailure, match="line 4"), explained(data.board):
        training()
