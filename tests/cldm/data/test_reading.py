"""How readers are made: seconds to wait for processes alone, and signals that they outlive."""

import signal

from torch.utils.data import DataLoader

from cldm.data.reading import Reading, _worker
from cldm.data.watch import Board, Watched


def reading(num_workers: int) -> Reading:
    return Reading(num_workers, 30, Board(num_workers, str))


def test_only_processes_are_watched_and_waited_for():
    assert reading(2).options()["timeout"] == 30
    assert isinstance(reading(2).watched([1, 2]), Watched)
    assert reading(0).options()["timeout"] == 0
    assert reading(0).watched([1, 2]) == [1, 2]
    assert list(DataLoader([1, 2], batch_size=None, **reading(0).options())) == [1, 2]


def test_readers_outlive_the_signals_that_end_a_run(monkeypatch):
    handlers, alarms = {}, []
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(signal, "alarm", alarms.append)
    _worker(0)
    assert handlers[signal.SIGINT] == signal.SIG_IGN
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert alarms == [60]
