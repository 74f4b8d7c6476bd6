"""Lightning's loggers, which do not end a run where a disk is full."""

import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from cldm.undisturbed import surviving_full_disk

_WHAT = "A part of the run's log is"


class _Surviving:
    """Of a logger: what cannot be written is left out, with a warning."""

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        with surviving_full_disk(_WHAT):
            super().log_metrics(*args, **kwargs)

    def save(self) -> None:
        with surviving_full_disk(_WHAT):
            super().save()

    def finalize(self, status: str) -> None:
        with surviving_full_disk(_WHAT):
            super().finalize(status)


class _TensorBoard(_Surviving, pl.loggers.TensorBoardLogger):
    pass


class _Csv(_Surviving, pl.loggers.CSVLogger):
    @rank_zero_only
    def save(self) -> None:
        """Write what is new; a file that could not be written whole is as it was, and what is new comes later."""
        file, keys = Path(self.experiment.metrics_file_path), list(self.experiment.metrics_keys)
        before = file.read_bytes() if file.is_file() else b""
        with surviving_full_disk(_WHAT):
            try:
                pl.loggers.CSVLogger.save(self)
            except OSError:
                self.experiment.metrics_keys = keys
                file.write_bytes(before) if before else file.unlink(missing_ok=True)
                raise


def loggers(folder: str | Path) -> list[pl.loggers.Logger]:
    """TensorBoard's and CSV's, in one new folder lightning_logs/version_N of a run's folder."""
    tensorboard = _TensorBoard(folder)
    warnings.filterwarnings("ignore", message="Experiment logs directory .* is not empty")  # of TensorBoard's own
    return [tensorboard, _Csv(folder, version=tensorboard.version)]
