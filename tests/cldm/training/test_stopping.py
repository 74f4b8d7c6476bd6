"""Ctrl-C and SIGTERM: the run is saved, goes on from there exactly, and the exit code says that it is not done."""

import os
import signal
from pathlib import Path

import pytest

from cldm.training import StopOnSignal
from cldm.training.run_folder import file_of
from cldm.training.state import check_state
from training_runs import Record, run


@pytest.mark.parametrize(("number", "step"), [(signal.SIGTERM, 4), (signal.SIGINT, 3)])
def test_a_signal_saves_and_then_ends_the_run(settings, number, step):
    before = signal.getsignal(number)
    record = Record(step, lambda: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as ended:
        run(settings, record)
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) == before
    assert record.seen[-1][0] == step, "the step is finished, and no other is begun"
    assert file_of(Path(settings.output), "control", step).is_file()
    check_state(file_of(Path(settings.output), "state", step))


def test_a_second_ctrl_c_ends_at_once():
    stopping = StopOnSignal()
    stopping._receive(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stopping._receive(signal.SIGINT, None)
