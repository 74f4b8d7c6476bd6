"""How readers are made: seconds to wait for processes alone, and signals that they outlive."""

import signal
import subprocess
import sys
from pathlib import Path

from torch.utils.data import DataLoader

from cldm.data.reading import Reading, _worker
from cldm.data.watch import Board, Watched

ROOT = Path(__file__).resolve().parents[3]


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
    assert handlers[signal.SIGINT] == handlers[signal.SIGUSR1] == signal.SIG_IGN
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert alarms == [15 * 60]


def test_where_there_are_no_such_signals_readers_and_runs_do_without():
    """As on Windows."""
    code = (
        "import signal; del signal.SIGUSR1, signal.SIGCHLD, signal.alarm\n"
        "import cldm.data.watch as watch, cldm.training.stopping as stopping, cldm.data.reading as reading\n"
        "reading._worker(0); watch.begun(watch.Board(0, str), list)\n"
        "print(*(each.name for each in stopping.SIGNALS))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["SIGINT", "SIGTERM"], ran.stderr
