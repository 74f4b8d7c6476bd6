"""Who reads a dataset: processes, how long they are waited for, and where they say what they are at."""

import signal
from dataclasses import dataclass
from typing import Any

import torch

from cldm.data.watch import Board, Watched

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
"""That end a run: Ctrl-C; what schedulers and `kill` send; what SLURM sends ahead of a time limit, if asked to."""

_GRACE = 15 * 60  # seconds that a reading process goes on after SIGTERM, so that the training process can save first


@dataclass(frozen=True)
class Reading:
    """How torch's DataLoader is to read.

    Attributes:
        num_workers: Reading processes; 0 reads in this one.
        timeout: Seconds to wait for them; 0 waits for ever.
        board: For `cldm.data.watch.explained`.
    """

    num_workers: int
    timeout: float
    board: Board

    def watched(self, dataset: Any) -> Any:
        """A dataset of torch's kind, whose reading processes say which sample they begin."""
        return Watched(dataset, self.board) if self.num_workers else dataset

    def options(self) -> dict[str, Any]:
        """Of torch's DataLoader."""
        own = torch.Generator()  # the process's is left as it is
        timeout = self.timeout if self.num_workers else 0
        return {"num_workers": self.num_workers, "timeout": timeout, "worker_init_fn": _worker, "generator": own}


def _worker(number: int) -> None:
    """Let a reading process outlive the signals that end a run, since they are sent to all of its processes at once."""
    del number
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows, where no process is asked to end
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
