"""When a run saves: the ControlNet for use, and beside it the state to go on from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

from cldm.cache.key import weights_hash
from cldm.cldm import ControlLDM
from cldm.optimization.restored import as_set_now
from cldm.training.ema import averaged_weights
from cldm.training.loading import TrainingData
from cldm.training.processes import of_all_processes
from cldm.training.products import description, in_save_precision, trained_weights, tuned_base, whole_model
from cldm.training.random_state import random_state, set_random_state
from cldm.training.run_folder import BASE, CONTROL, STATE, WHOLE, file_of, remove_old, write_settings
from cldm.training.settings import Settings
from cldm.training.starting import Start
from cldm.training.state import (
    StateError,
    StateFiles,
    check_optimizer,
    check_samples,
    check_trained,
    continued,
    trained_names,
)
from cldm.weights.saving import save_weights

BEST = "control_best.safetensors"


class SaveControl(Checkpoint):
    """Saves every `save_freq` steps, at the last step, and when training is stopped.

    In the run's folder: `control_<step>.safetensors`, the ControlNet alone; `state_<step>.pt`, to go on from; with
    `save_full`, `model_<step>.safetensors`; with `sd_locked` False, `base_<step>.safetensors`. And whenever the figure
    `best_by` of `trainer.callback_metrics`, which another callback reports, is higher than ever,
    `control_best.safetensors`.

    A file that cannot be written is told and training goes on, since what it has learnt is in memory only; at the last
    step, it is an error. Lightning runs this callback after all that are no `Checkpoint`.

    Args:
        settings: Of the run.
        start: Where its locked weights are from.
        model: Fresh, with all weights as they were read: the hash of its U-Net goes into all files.
    """

    def __init__(self, settings: Settings, start: Start, model: ControlLDM):
        self.settings = settings
        self.start = start
        self.folder = settings.folder
        self.base = weights_hash(model.model.diffusion_model)
        self.best = float("-inf")
        self._first: int | None = None  # step of this process's start, until settings are written
        self._step = self._saved = 0
        self._random: list[dict[str, Any]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: ControlLDM) -> None:
        self._first = self._step = self._saved = trainer.global_step
        if self._random:
            self._go_on(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: ControlLDM, *_: Any) -> None:
        step = trainer.global_step
        if step == self._step:  # gradients are being accumulated
            return
        self._step = step
        if self._first is not None:  # not before: a run that fails in its first step leaves its folder free
            self._as_the_first(trainer, lambda: write_settings(self.settings, self._first))
            self._first = None
        is_last = trainer.should_stop or step == trainer.max_steps
        self._save_if_best(trainer, pl_module)
        if is_last or step % self.settings.save_freq == 0:
            self._save(trainer, pl_module, is_last)

    def on_train_end(self, trainer: pl.Trainer, pl_module: ControlLDM) -> None:
        """Save what an end without a last step has left, such as Lightning's `max_epochs`; without a state."""
        if self._saved != trainer.global_step:
            self._tell(self._as_the_first(trainer, lambda: self._save_products(trainer, pl_module)), is_last=True)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: ControlLDM, checkpoint: dict[str, Any]) -> None:
        """Leave the locked weights out of a state, and put in what Lightning does not know of."""
        checkpoint["state_dict"] = {name: checkpoint["state_dict"][name] for name in trained_names(pl_module)}
        checkpoint["random"] = of_all_processes(random_state())
        checkpoint["base_unet_sha256"] = self.base
        checkpoint["optimizer"] = self.settings.optimization.optimizer
        if isinstance(trainer.datamodule, TrainingData):
            checkpoint["samples"] = len(trainer.datamodule.dataset)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: ControlLDM, checkpoint: dict[str, Any]) -> None:
        """Check that the state belongs to this run, and go on in the place it says."""
        if checkpoint["base_unet_sha256"] != self.base:
            raise StateError(
                f"the state's run was on another base (U-Net with SHA-256 {checkpoint['base_unet_sha256'][:16]}..., "
                f"this one is {self.base[:16]}...): resume with the weights that it started from"
            )
        check_trained(list(checkpoint["state_dict"]), trained_names(pl_module))
        check_optimizer(checkpoint.get("optimizer"), self.settings.optimization.optimizer)
        data = trainer.datamodule
        if isinstance(data, TrainingData):
            check_samples(checkpoint.get("samples"), len(data.dataset))
            checkpoint["loops"] = continued(checkpoint["loops"], data.start, data.share)
        self._random = checkpoint["random"]

    def setup(self, trainer: pl.Trainer, pl_module: ControlLDM, stage: str) -> None:
        pl_module.trained_parameters()  # locks the others
        pl_module.strict_loading = False  # of a state, which has the trained ones alone

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.best = state_dict["best"]

    def _go_on(self, trainer: pl.Trainer) -> None:
        """After all has been restored: by the present settings, with the random numbers of the state's run."""
        schedules = {each.scheduler.optimizer: each.scheduler for each in trainer.lr_scheduler_configs}
        for optimizer in trainer.optimizers:
            as_set_now(optimizer, schedules.get(optimizer), trainer.global_step)
        if trainer.global_rank < len(self._random):
            set_random_state(self._random[trainer.global_rank])
        self._random = []

    def _save_if_best(self, trainer: pl.Trainer, model: ControlLDM) -> None:
        value = trainer.callback_metrics.get(self.settings.best_by)
        if value is None or not float(value) > self.best:
            return
        figures = {self.settings.best_by: float(value)}
        failure = self._as_the_first(
            trainer, lambda: self._write(self.folder / BEST, trained_weights, trainer, model, **figures)
        )
        if not failure:
            self.best = float(value)
        self._tell(failure, is_last=False)

    def _save(self, trainer: pl.Trainer, model: ControlLDM, is_last: bool) -> None:
        """Everything of this step, in all processes; what is older goes when that is written."""
        failure = self._as_the_first(trainer, lambda: self._save_products(trainer, model))
        trainer.save_checkpoint(file_of(self.folder, STATE, trainer.global_step), weights_only=False)
        files = trainer.strategy.checkpoint_io
        failure = failure or (files.failure if isinstance(files, StateFiles) else None)
        if not failure:
            self._saved = trainer.global_step
            failure = self._as_the_first(trainer, self._remove_old)
        self._tell(failure, is_last)

    def _save_products(self, trainer: pl.Trainer, model: ControlLDM) -> None:
        step = trainer.global_step
        self._write(file_of(self.folder, CONTROL, step), trained_weights, trainer, model)
        if self.settings.save_full:
            self._write(file_of(self.folder, WHOLE, step), lambda m: whole_model(m, self.start), trainer, model)
        if not model.sd_locked:
            self._write(file_of(self.folder, BASE, step), lambda m: tuned_base(m, self.start), trainer, model)

    def _write(
        self,
        file: Path,
        weights: Callable[[ControlLDM], Mapping[str, Tensor]],
        trainer: pl.Trainer,
        model: ControlLDM,
        **figures: float,
    ) -> None:
        about = description(self.settings, self.base, trainer.global_step, trainer.current_epoch, **figures)
        with averaged_weights(trainer, model):
            save_weights(in_save_precision(weights(model), self.settings.save_precision), file, about, replace=True)

    def _remove_old(self) -> None:
        remove_old(self.folder, CONTROL, self.settings.keep_last)
        remove_old(self.folder, STATE, self.settings.keep_states)
        for kind in (WHOLE, BASE):
            remove_old(self.folder, kind, keep=1)

    def _as_the_first(self, trainer: pl.Trainer, write: Callable[[], None]) -> Exception | None:
        """Write in one process of the run; what kept it from writing is returned, since the others go on."""
        if trainer.is_global_zero:
            try:
                write()
            except OSError as error:
                return error
        return None

    def _tell(self, failure: Exception | None, is_last: bool) -> None:
        if failure and is_last:
            raise OSError(f"the last step could not be saved in {self.folder}: {failure}") from failure
        if failure:
            rank_zero_info(
                f"could not save in {self.folder}: {failure}\nTraining goes on, and the next save is tried; what was "
                "saved before is whole. Make room on the disk."
            )
