"""Workers that are killed, crash or hang, for real: one error that names the sample and says what to do."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

import sharded
from cldm.data import Indexed
from cldm.data.loading import ShardLoader, WatchedLoader
from cldm.data.order import Shuffle
from cldm.data.sharded import ShardedDataset
from cldm.data.watch import Board, WorkerFailure, explained, names_of


class Trap:
    """A dataset whose item 3 ends or stops the process that reads it."""

    def __init__(self, what: str):
        self.what = what

    def __len__(self) -> int:
        return 6

    def name_of(self, index: int) -> str:
        return f"prompt.json, line {index + 1}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 3:
            fall(self.what)
        return {"value": index}


def fall(what: str) -> None:
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "crashed":
        os._exit(7)
    time.sleep(60)


@pytest.mark.parametrize("what", ["killed", "crashed"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_dead_worker_is_an_error_that_names_the_row(what, workers):
    loader = WatchedLoader(Indexed(Trap(what)), num_workers=workers, timeout=30, batch_size=1)
    with pytest.raises(WorkerFailure, match=r"ended \(.*\) while it read prompt.json, line 4\..*fewer num_workers"):
        list(loader)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_worker_that_hangs_is_an_error_that_names_the_row(workers):
    loader = WatchedLoader(Indexed(Trap("hung")), num_workers=workers, timeout=4, batch_size=1)
    began = time.monotonic()
    with pytest.raises(
        WorkerFailure, match=r"no data came for 4 seconds.* at prompt.json, line 4, for \d+ seconds.*wor"
    ):
        list(loader)
    assert time.monotonic() - began < 55, "it did not wait for the worker"


@pytest.mark.parametrize(
    ("what", "message"),
    [("killed", "while it read"), pytest.param("hung", "no data came for 4 seconds", marks=pytest.mark.slow)],
)
def test_workers_of_shards_name_shard_and_sample(tmp_path, what, message):
    def load(sample):
        if sample.shard.endswith("shard-00002.tar"):
            fall(what)
        return {}

    dataset = ShardedDataset(sharded.make(tmp_path), load, Shuffle(0, 1, 1))
    with pytest.raises(WorkerFailure, match=rf"{message}.*shard-00002.tar, sample 0"):
        list(ShardLoader(dataset, 2, num_workers=1, timeout=4 if what == "hung" else 30))


def test_a_death_that_is_told_elsewhere_is_explained_there():
    """Torch raises it wherever the program is when the worker dies, such as in the middle of a training step."""
    loader = WatchedLoader(Trap("killed"), num_workers=1, timeout=30, batch_size=1, prefetch_factor=4)
    unwatched = DataLoader(loader.dataset, num_workers=1, batch_size=1, prefetch_factor=4)

    def training() -> None:
        batches = iter(unwatched)
        next(batches)
        time.sleep(30)  # cut short by the error

    with pytest.raises(WorkerFailure, match="line 4"), explained(loader.board):
        training()


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match=r"^out of memory$"), explained(Board(1, str)):
        raise RuntimeError("out of memory")
    with pytest.raises(WorkerFailure, match=r"^once$"), explained(Board(1, str)):
        raise WorkerFailure("once")


def test_names_are_those_of_the_innermost_dataset():
    assert names_of(Indexed(Trap("")))(3) == "prompt.json, line 4"
    assert names_of(Indexed([1, 2]))(1) == "item 1"
    assert names_of(Path())(1) == "item 1"


def test_a_board_knows_what_was_last_and_for_how_long():
    board = Board(1, "row {}".format)
    assert board.longest() == ""
    assert board.of_process(os.getpid()) == "before it read its first sample"
    board.begin(5)
    assert board.longest() == "row 5, for 0 seconds"
    assert board.of_process(os.getpid()) == "while it read row 5"
    board.end()
    assert board.longest() == ""
    assert board.of_process(os.getpid()) == "after row 5"
