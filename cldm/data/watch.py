"""Workers that crash or hang: which sample they were at.

torch's DataLoader says that a worker died or that no batch came, not why. Here each worker writes on a board in shared
memory which sample it begins, so that the error can name it.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children
from traceback import clear_frames
from typing import Any

import torch
from torch.utils.data import Subset, get_worker_info

from cldm.data.errors import DataError

_COLUMNS = 4  # process id, index, when it began (seconds, monotonic), whether it is still at it
_PATIENCE = 20  # tenths of a second
_DEAD = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", re.DOTALL)
_LATE = re.compile(r"DataLoader timed out after ([\d.]+) seconds")


class WorkerFailure(RuntimeError):
    """A worker process died or gave nothing in time; the message names the sample."""


class Board:
    """What each worker is at, in memory that all processes share.

    Attributes that `begun` sets: `on_death`, the handler of SIGCHLD by which torch hears of a worker's death.

    Args:
        workers: At most so many write on it.
        name_of: Which sample an index is, as an error calls it.
    """

    def __init__(self, workers: int, name_of: Callable[[int], str]):
        self.name_of = name_of
        self.on_death: Any = None
        self._rows = torch.zeros(max(1, workers), _COLUMNS, dtype=torch.float64).share_memory_()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "on_death": None}  # of this process alone

    def clear(self) -> None:
        """Forget all workers."""
        self._rows.zero_()

    def begin(self, index: int) -> None:
        """This worker begins to read a sample."""
        worker = get_worker_info()
        row = self._rows[worker.id if worker else 0]
        row[1], row[2], row[0], row[3] = index, time.monotonic(), os.getpid(), 1

    def end(self) -> None:
        """This worker has read it."""
        worker = get_worker_info()
        self._rows[worker.id if worker else 0, 3] = 0

    def of_process(self, pid: int) -> str:
        """What a worker was at."""
        for process, index, _, busy in self._rows.tolist():
            if process == pid:
                return f"while it read {self.name_of(int(index))}" if busy else f"after {self.name_of(int(index))}"
        return "before it read its first sample"

    def dead(self) -> list[int]:
        """The process ids of workers that ended while they read a sample."""
        alive = {process.pid for process in active_children()}
        return [int(process) for process, _, _, busy in self._rows.tolist() if busy and process not in alive]

    def end_left(self) -> None:
        """End the workers that still are; one that hangs would keep the program from ending."""
        own = {int(process) for process, *_ in self._rows.tolist()}
        for process in active_children():
            if process.pid in own:
                process.kill()
                process.join()

    def longest(self) -> str:
        """What the worker is at that has been so for longest; empty if none is at a sample."""
        busy = [(began, int(index)) for process, index, began, busy in self._rows.tolist() if process and busy]
        if not busy:
            return ""
        began, index = min(busy)
        return f"{self.name_of(index)}, for {time.monotonic() - began:.0f} seconds"


def names_of(dataset: Any) -> Callable[[int], str]:
    """The method `name_of` of a dataset, or of the one that it wraps as `dataset`; plain numbers if there is none."""
    if hasattr(dataset, "name_of"):
        return dataset.name_of
    if isinstance(dataset, Subset):
        return partial(_name_in_subset, names_of(dataset.dataset), dataset.indices)
    if hasattr(dataset, "dataset"):
        return names_of(dataset.dataset)
    return "item {}".format


def names_by_index(dataset: Any) -> Callable[[int], str]:
    """As `names_of`, but by the `sample_index` in a dataset's items, which is their place below any `Subset`."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return names_of(dataset)


def _name_in_subset(name_of: Callable[[int], str], indices: Sequence[int], index: int) -> str:
    return name_of(indices[index])


class Watched:
    """A dataset that writes on a board which item is read.

    Args:
        dataset: Of torch's kind, with a length.
        board: To write on.
    """

    def __init__(self, dataset: Any, board: Board):
        self.dataset = dataset
        self.board = board

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        self.board.begin(index)
        item = self.dataset[index]
        self.board.end()
        return item


def begun(board: Board, begin: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Batches from workers that are started now.

    torch sees that a worker dies once all of them have started; one that is dead by then would be waited for until the
    timeout.

    Args:
        board: On which the workers write.
        begin: Starts them.

    Raises:
        RuntimeError: If one is dead, as torch's own is, for `explained`.
    """
    board.clear()
    others = {process.pid for process in active_children()}
    batches = begin()
    if hasattr(signal, "SIGCHLD"):  # not on Windows, where torch asks instead
        board.on_death = signal.getsignal(signal.SIGCHLD)
    if dead := [pid for pid in board.dead() if pid not in others]:
        raise RuntimeError(f"DataLoader worker (pid(s) {', '.join(map(str, dead))}) died at its start")
    return batches


@contextmanager
def explained(board: Board) -> Iterator[None]:
    """Turns torch's errors of dead and late workers into a `WorkerFailure` that names the sample.

    torch raises that of a dead worker wherever the program is at that moment, so this belongs around all of a training,
    not around the reading alone. What a worker says of the data itself, a `DataError` or a `FileNotFoundError`, keeps
    its class, and loses the worker's traceback.

    And torch, which sets its handler of deaths once in a process, keeps it: Lightning puts back the one before when it
    ends, so that torch would not hear of deaths in the next training.

    Args:
        board: On which the workers write.
    """
    try:
        with _connected(board):
            yield
    except (DataError, FileNotFoundError, RuntimeError) as error:
        told, failure = _told_by_worker(error), _explanation(str(error), board)
        if isinstance(error, WorkerFailure) or not (told or failure):
            raise
        clear_frames(error.__traceback__)  # they keep torch's other workers, whose ends would be errors as well
        board.end_left()
        raise (type(error)(told) if told else WorkerFailure(failure)) from error
    finally:
        if board.on_death is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, board.on_death)


@contextmanager
def _connected(board: Board) -> Iterator[None]:
    """Explains the errors of reading from a worker that died with something half sent.

    While it waits for the worker's end, torch may tell that by its own error, which is as good.
    """
    try:
        yield
    except (OSError, EOFError) as error:
        dead = [] if _told_by_worker(error) else _dead_soon(board)
        if not dead:
            raise
        clear_frames(error.__traceback__)
        board.end_left()
        raise WorkerFailure(_death("its connection broke", dead, board)) from error


def _told_by_worker(error: Exception) -> str:
    """The message of an error of the data that a worker sent with its traceback; empty for others."""
    by_worker = str(error).startswith(f"Caught {type(error).__name__} in DataLoader worker")
    if not by_worker or not isinstance(error, DataError | FileNotFoundError):
        return ""
    last = re.split(rf"^(?:\w+\.)*{type(error).__name__}: ", str(error), flags=re.MULTILINE)[-1]
    return last.strip()


def _dead_soon(board: Board) -> list[int]:
    """A worker's connections break a little before it has ended, and before torch says so by a signal."""
    for _ in range(_PATIENCE):
        dead = board.dead()
        if dead or not board.longest():
            return dead
        time.sleep(0.1)
    return []


def _explanation(problem: str, board: Board) -> str:
    """What the matter with a worker is; empty if it is none of theirs."""
    if dead := _DEAD.search(problem):
        how = " ".join(dead[2].split(".")[0].split())
        return _death(how, [int(pid) for pid in dead[1].split(",")], board)
    if late := _LATE.search(problem):
        at = board.longest() or "no sample: see whether the storage or network answers"
        return (
            f"no data came for {float(late[1]):.0f} seconds; the worker that has taken longest is at {at}. Look at "
            "that sample and its storage; where reading really takes so long, train with a higher worker_timeout"
        )
    return ""


def _death(how: str, pids: list[int], board: Board) -> str:
    at = "; ".join(board.of_process(pid) for pid in pids)
    return (
        f"a worker that reads the dataset ended ({how}) {at}. If it was killed, memory ran out: train with fewer "
        "num_workers, or smaller images. If it crashed, look at that sample: python tutorial_dataset.py checks all"
    )
