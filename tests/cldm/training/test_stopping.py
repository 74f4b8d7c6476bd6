"""Ctrl-C and SIGTERM: the run is saved, goes on from there exactly, and the exit code says that it is not done."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from cldm.training import StopOnSignal
from cldm.training.run_folder import file_of
from training_runs import Record, run


@pytest.mark.parametrize(("number", "step"), [(signal.SIGTERM, 5), (signal.SIGINT, 3)])
def test_a_signal_saves_and_then_ends_the_run(settings, whole, number, step):
    before = signal.getsignal(number)
    record = Record(step, lambda: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as ended:
        run(settings, record)
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) == before
    assert record.seen[-1][0] == step, "the step is finished, and no other is begun"
    folder = Path(settings.output)
    assert file_of(folder, "control", step).is_file()
    rest = run(replace(settings, resume="auto"))
    assert record.seen + rest.seen == whole[1].seen
    assert file_of(folder, "control", 8).read_bytes() == file_of(whole[0], "control", 8).read_bytes()


def test_a_second_ctrl_c_ends_at_once():
    stopping = StopOnSignal()
    stopping._receive(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stopping._receive(signal.SIGINT, None)
