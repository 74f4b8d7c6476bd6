"""Validations: how a run does on pairs that it does not train on, by figures that can be compared from step to step."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from cldm.cache.stand_ins import decoding
from cldm.cldm import ControlLDM
from cldm.training.curve import draw_curve
from cldm.training.ema import averaged_weights
from cldm.training.judging import Judged, choose_measure, judge, shown
from cldm.training.learned import Learned, learned_at
from cldm.training.pairs import Pair
from cldm.training.processes import of_all_processes
from cldm.training.settings import Settings
from cldm.undisturbed import surviving_full_disk, surviving_lack_of_memory, undisturbed


@dataclass(frozen=True)
class Point:
    """One validation.

    Attributes:
        step: Steps done by then.
        training_loss: Mean over the steps since the validation before; not a number without such steps.
        loss: Mean squared error over the pairs, at fixed time steps and noises, with their prompts, without weights.
        fidelity: Of the control, in [0, 1], mean over the pairs.
    """

    step: int
    training_loss: float
    loss: float
    fidelity: float


class Validation(pl.Callback):
    """Judges a run before its first step, every so many steps, and at the last of `max_steps`.

    Each time, for the same pairs, with the same noise and time steps: the loss; a sample of each, and by it how
    faithfully the control is followed. Both go to the run's loggers as val/loss and val/fidelity, and to
    `trainer.callback_metrics`, by which the best checkpoint is kept. In `validation/` of the run's folder are a picture
    of hints, samples and targets for each validation, and curve.png. Once it is seen that the control was learnt, this
    is reported; see `learned_at`. Several processes share the pairs among them.

    It leaves the run's weights, modes and random numbers as they are, and where memory does not do for it, it is left
    out with a warning. With an `Ema`, the averaged weights are judged.

    Args:
        pairs: From `encode_pairs`; without any there are no validations.
        settings: Of the run.

    Raises:
        ValueError: If the fidelity asked for is that of shapes, and a target is no plain shape.
    """

    def __init__(self, pairs: Sequence[Pair], settings: Settings):
        self.pairs = list(pairs)
        self.settings = settings
        self.folder = settings.folder / "validation"
        self.measure = choose_measure(settings.fidelity, self.pairs)
        self.points: list[Point] = []
        self.learned: Learned | None = None
        self._losses = torch.zeros(2)  # sum and number since the last validation, without waiting for the device
        self._seen = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: ControlLDM) -> None:
        self._losses = self._losses.to(pl_module.device)
        self._seen = trainer.global_step
        if self.pairs and not self.points and trainer.global_step == 0:
            self.validate(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: ControlLDM, outputs: Any, *_: Any) -> None:
        step, before, self._seen = trainer.global_step, self._seen, trainer.global_step
        if not self.pairs:
            return
        if isinstance(outputs, dict) and "loss" in outputs:
            self._collect(outputs["loss"] * trainer.accumulate_grad_batches)  # Lightning has divided by it
        if step > before and (step % self.settings.validation_freq == 0 or step == trainer.max_steps):
            self.validate(trainer, pl_module)

    def validate(self, trainer: pl.Trainer, model: ControlLDM) -> None:
        """Judge the model as it is now, and write and report what comes out."""
        own = None
        with (
            surviving_lack_of_memory(f"The validation of step {trainer.global_step} is"),
            undisturbed(model),
            averaged_weights(trainer, model),
            decoding(model),
        ):
            numbers = range(trainer.global_rank, len(self.pairs), trainer.world_size)
            sampling = self.settings.image_steps, self.settings.image_scale
            own = [
                judge(model, self.pairs[k], k, self.measure, sampling, trainer.precision_plugin.forward_context())
                for k in numbers
            ]
        parts = of_all_processes(own)
        failed = [rank for rank, part in enumerate(parts) if part is None]
        if failed:
            if failed != [trainer.global_rank]:  # which has warned already
                rank_zero_warn(
                    f"The validation of step {trainer.global_step} is left out, since memory does not do in the "
                    f"processes with rank {', '.join(map(str, failed))} of {len(parts)}; training goes on"
                )
            return
        judged = sorted((each for part in parts for each in part), key=lambda each: each.number)
        self._add_point(trainer, judged)
        if trainer.is_global_zero:
            with surviving_full_disk(f"The picture of the validation of step {trainer.global_step} is"):
                self._write(trainer, [each.image for each in judged])

    def _collect(self, loss: Tensor) -> None:
        finite = loss.detach().isfinite()
        self._losses += torch.stack([torch.where(finite, loss.detach(), 0), finite]).to(self._losses)

    def _add_point(self, trainer: pl.Trainer, judged: Sequence[Judged]) -> None:
        total, count = self._losses.tolist()
        self._losses.zero_()
        loss, fidelity = (float(np.mean([getattr(each, name) for each in judged])) for name in ("loss", "fidelity"))
        point = Point(trainer.global_step, total / count if count else float("nan"), loss, fidelity)
        self.points.append(point)
        figures = {"val/loss": loss, "val/fidelity": fidelity}
        if point.step:  # what is untrained is not to be the best
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in figures.items()})
        _say(trainer, f"step {point.step}: validation loss {loss:.4f}, {self.measure.label} {fidelity:.3f}")
        if self.learned is None:
            self.learned = learned_at([p.step for p in self.points], [p.fidelity for p in self.points])
            if self.learned is not None:
                figures["val/learned_at_step"] = float(self.learned.step)
                _say(trainer, f"step {point.step}: {self.learned}")
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=point.step)

    def _write(self, trainer: pl.Trainer, images: Sequence[np.ndarray]) -> None:
        """A picture of hints, samples and targets, one pair a column, and the curve."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = ([shown(p.hint) for p in self.pairs], images, [p.target for p in self.pairs])
        picture = np.concatenate([_side_by_side(row) for row in rows])
        Image.fromarray(picture).save(self.folder / f"samples_{trainer.global_step:06}.png")
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.TensorBoardLogger):
                logger.experiment.add_image("val/samples", picture, trainer.global_step, dataformats="HWC")
        draw_curve(
            self.folder / "curve.png",
            [(p.step, p.fidelity) for p in self.points],
            {
                "training": [(p.step, p.training_loss) for p in self.points[1:]],
                "validation": [(p.step, p.loss) for p in self.points],
            },
            self.measure.label,
            None if self.learned is None else self.learned.step,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "points": [asdict(point) for point in self.points],
            "learned": None if self.learned is None else self.learned._asdict(),
            "losses": self._losses.cpu(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.points = [Point(**point) for point in state_dict["points"]]
        self.learned = None if state_dict["learned"] is None else Learned(**state_dict["learned"])
        self._losses = state_dict["losses"].clone()


def _say(trainer: pl.Trainer, text: str) -> None:
    """Print in one process, above a progress bar."""
    if trainer.is_global_zero:
        trainer.print(text)


def _side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images of any sizes in a row, on white."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    row = np.full((height, len(images) * width, 3), 255, np.uint8)
    for column, image in enumerate(images):
        row[: image.shape[0], column * width : column * width + image.shape[1]] = image
    return row
