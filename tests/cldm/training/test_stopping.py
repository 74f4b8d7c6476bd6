"""Ctrl-C and SIGTERM: the run is saved, goes on from there exactly, and the exit code says that it is not done."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cldm.training import StopOnSignal
from cldm.training.run_folder import file_of
from cldm.training.state import check_state
from cldm.training.validation import Validation
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


def test_a_signal_in_the_validation_before_the_first_step_saves_as_well(settings, monkeypatch):
    monkeypatch.setattr(Validation, "validate", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        run(replace(settings, validation=settings.dataset))
    assert ended.value.code == 128 + signal.SIGTERM
    check_state(file_of(Path(settings.output), "state", 1))


def test_another_processs_signal_is_told(monkeypatch):
    told = []
    monkeypatch.setattr("cldm.training.stopping.rank_zero_info", told.append)
    strategy = SimpleNamespace(reduce_boolean_decision=lambda own, all: True)
    trainer = SimpleNamespace(global_step=1, strategy=strategy, should_stop=False)
    stopping = StopOnSignal()
    for trainer.global_step in (1, 2):
        stopping.on_train_batch_end(trainer, None)
    assert trainer.should_stop
    assert told == ["another process of the run got a signal: training stops after this step, and saves it"]


def test_a_second_ctrl_c_ends_at_once():
    stopping = StopOnSignal()
    stopping._receive(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stopping._receive(signal.SIGINT, None)
