"""Who is at which sample, and what errors are made of it; real workers are in tests of `cldm.training.loading`."""

import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
from torch._utils import ExceptionWrapper
from torch.utils.data import Subset

from cldm.data import DataError, Indexed
from cldm.data.watch import Board, WorkerFailure, begun, explained, names_by_index, names_of


class Named:
    def name_of(self, index: int) -> str:
        return f"prompt.json, line {index + 1}"


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match=r"^out of memory$"), explained(Board(1, str)):
        raise RuntimeError("out of memory")
    with pytest.raises(WorkerFailure, match=r"^once$"), explained(Board(1, str)):
        raise WorkerFailure("once")


def test_names_are_those_of_the_innermost_dataset():
    assert names_of(Indexed(Named()))(3) == "prompt.json, line 4"
    assert names_of(Indexed([1, 2]))(1) == "item 1"
    assert names_of(Path())(1) == "item 1"


def test_a_part_of_a_dataset_has_the_names_of_the_whole():
    names = names_of(Subset(Indexed(Subset(Named(), [5, 7, 9])), [0, 2]))
    assert names(1) == "prompt.json, line 10"
    assert pickle.loads(pickle.dumps(names))(0) == "prompt.json, line 6", "where workers are spawned"


def test_an_index_counts_below_what_parts_were_taken():
    part = Subset(Indexed(Subset(Named(), [5, 7, 9])), [0, 2])
    for whole in (part, Subset(part, [1])):
        assert names_by_index(whole)(2) == "prompt.json, line 10"
    assert names_by_index(Subset(Indexed(Named()), [9]))(3) == "prompt.json, line 4"
    assert names_by_index([1])(1) == "item 1"


@pytest.mark.parametrize("kind", [DataError, FileNotFoundError])
def test_what_a_worker_says_of_the_data_loses_its_traceback(kind):
    def read() -> None:
        try:
            raise OSError("DataError: of Pillow")
        except OSError as error:
            raise kind("line 4: no image.\nMake it anew") from error

    try:
        read()
    except kind:
        sent = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(kind, match=r"^line 4: no image.\nMake it anew$"), explained(Board(1, str)):
        sent.reraise()


@pytest.mark.parametrize(
    "error", [DataError("line 4"), FileNotFoundError("a.png"), OSError("no room"), ValueError("x")]
)
def test_errors_of_the_training_process_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, explained(Board(1, str)):
        raise error
    assert caught.value is error


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


def test_a_worker_that_is_dead_before_torch_watches_it_is_not_waited_for():
    board = Board(1, "row {}".format)

    def begin():
        worker = multiprocessing.get_context("fork").Process(target=board.begin, args=(3,))
        worker.start()
        worker.join()
        return iter(())

    with pytest.raises(WorkerFailure, match=r"ended \(died at its start\) while it read row 3\."), explained(board):
        begun(board, begin)


def test_workers_of_an_epoch_that_was_left_are_forgotten():
    board = Board(1, str)
    worker = multiprocessing.get_context("fork").Process(target=board.begin, args=(3,))
    worker.start()
    worker.join()
    assert board.dead()
    assert list(begun(board, lambda: iter([1]))) == [1]


def test_a_death_that_torch_tells_while_its_broken_connection_is_looked_into_is_explained(monkeypatch):
    board = Board(1, "row {}".format)
    board.begin(3)

    def sleep(seconds):
        raise RuntimeError(f"DataLoader worker (pid {os.getpid()}) is killed by signal: Killed.")

    monkeypatch.setattr("cldm.data.watch.time.sleep", sleep)
    monkeypatch.setattr(Board, "dead", lambda self: [])
    with (
        pytest.raises(WorkerFailure, match=r"ended \(is killed by signal: Killed\) while it read row 3"),
        explained(board),
    ):
        raise EOFError


def test_a_broken_connection_is_a_death_if_a_worker_is_dead():
    board = Board(1, "row {}".format)
    worker = multiprocessing.get_context("fork").Process(target=board.begin, args=(3,))
    worker.start()
    worker.join()
    with pytest.raises(WorkerFailure, match=r"ended \(its connection broke\) while it read row 3"), explained(board):
        raise ConnectionResetError


def test_a_board_goes_to_a_worker_that_is_spawned():
    board = Board(1, "row {}".format)
    begun(board, lambda: iter(()))
    board.on_death = lambda *_: None
    assert pickle.loads(pickle.dumps(board)).on_death is None
