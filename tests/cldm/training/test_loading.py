"""Batches for Lightning: order, readers, streams."""

import signal
from collections.abc import Iterable, Iterator
from types import SimpleNamespace

import pytest
import torch

from cldm.data import Indexed
from cldm.training.loading import Stream, TrainingData, _worker
from cldm.training.order import Place, epoch_order

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
            yield {"index": int(order[position]), "drawn": torch.rand(())}


def batches(dataset, batch_size=2, rank=0, world=1, epoch=0, start=None, num_workers=0) -> list[list[int]]:
    data = TrainingData(dataset, batch_size, seed=5, num_workers=num_workers)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, current_epoch=epoch)
    if start is not None:
        data.load_state_dict({"epoch": start.epoch, "samples": start.samples})
    return [batch["index"].tolist() for batch in data.train_dataloader()]


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


def test_readers_outlive_the_signals_that_end_a_run(monkeypatch):
    handlers, alarms = {}, []
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(signal, "alarm", alarms.append)
    _worker(0)
    assert handlers[signal.SIGINT] == signal.SIG_IGN
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert alarms == [60]
