"""Signals that end a run: the step is finished, the run saved, and then the process exits."""

import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from cldm.data.reading import SIGNALS

_EXIT = 128  # exit codes of shells: this and the signal's number


class StopOnSignal(pl.Callback):
    """Ends training after the step in which a signal of `SIGNALS` comes; a second Ctrl-C ends it at once.

    All processes of a run stop after the same step, whichever of them got the signal. `SaveControl` saves that step.
    To be the first callback: until its `on_train_start`, SIGTERM ends the process by Lightning's handler, unsaved.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = trainer.global_step
        if threading.current_thread() is threading.main_thread():  # other threads may not
            self._before = {each: signal.signal(each, self._receive) for each in SIGNALS}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        if stepped and trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            if self.received is None:
                self.received = signal.SIGTERM
                rank_zero_info("another process of the run got a signal: training stops after this step, and saves it")
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore()

    def exit_if_stopped(self, trainer: pl.Trainer) -> None:
        """End this process as one that the signal ended, so that who started it sees that training is not done."""
        if self.received is not None:
            raise SystemExit(_EXIT + self.received if trainer.is_global_zero else 0)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        rank_zero_info(f"{self.received.name}: training stops after this step, and saves it")

    def _restore(self) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}
