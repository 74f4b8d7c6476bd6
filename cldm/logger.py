"""Images of a training run, as files and in TensorBoard."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

from cldm.cache.stand_ins import decoding
from cldm.cldm import ControlLDM
from cldm.training.ema import averaged_weights
from cldm.undisturbed import surviving_full_disk, surviving_lack_of_memory, undisturbed
from ldm.models.diffusion.ddpm import MOMENTS
from ldm.models.diffusion.draws import INDEX

_PER_ROW = 4


def text_image(text: str, width: int, height: int) -> Tensor:
    """A text, wrapped, black on white: (3, height, width) in [-1, 1]."""
    font = ImageFont.load_default(size=max(10, width // 20))
    letters = max(8, int(1.7 * width / font.size))
    canvas = Image.new("RGB", (width, height), "white")
    lines = [line for paragraph in text.splitlines() for line in textwrap.wrap(paragraph, letters)]
    ImageDraw.Draw(canvas).multiline_text((2, 2), "\n".join(lines), fill="black", font=font)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 127.5 - 1


def grid(images: Tensor | Sequence[str], like: Tensor) -> np.ndarray:
    """Images (n, c, h, w) in [-1, 1], or texts drawn at the size of `like`, side by side; uint8 RGB (h, w, 3)."""
    if not isinstance(images, Tensor):
        images = torch.stack([text_image(text, like.shape[3], like.shape[2]) for text in images])
    if images.shape[1] not in (1, 3):  # control maps of other channels: these side by side
        images = rearrange(images, "n c h w -> n 1 h (c w)")
    joined = make_grid(images.detach().float().cpu().clamp(-1, 1), nrow=_PER_ROW, pad_value=1)
    return ((joined + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def _joined(parts: Sequence[Tensor] | Sequence[list[str]]) -> Tensor | list[str]:
    if isinstance(parts[0], Tensor):
        return torch.cat([part.cpu() for part in parts])
    return [text for part in parts for text in part]


class ImageLogger(pl.Callback):
    """Logs reconstruction, control, prompt and samples of a batch, without touching the run's random numbers.

    Samples are drawn one at a time, so that memory that does for training does for these, and a run goes on where it
    does not, or a file cannot be written. With `cldm.training.Ema` they are of the averaged weights.

    Of a batch, the model gets what it reads (images, prompts, control images), what training adds, and other tensors
    and texts of one row for each sample; what else a dataset gives cannot be told apart by sample.

    Files are `<folder>/train/<what>_gs-<step>_e-<epoch>_b-<batch>.png`.

    Args:
        batch_frequency: Steps from one log to the next; the first batch is logged as well.
        max_images: Samples of the batch that are shown.
        folder: By default `image_log` in the trainer's root folder.
        log_images_kwargs: Passed on to the model's `log_images`; but `N` stands for `max_images`.
    """

    def __init__(
        self,
        batch_frequency: int = 2000,
        max_images: int = 4,
        folder: str | Path | None = None,
        log_images_kwargs: dict | None = None,
    ):
        if batch_frequency < 1:
            raise ValueError(f"batch_frequency must be at least 1, got {batch_frequency}")
        self.batch_frequency = batch_frequency
        self.max_images = max_images
        self.folder = folder
        self.log_images_kwargs = log_images_kwargs or {}
        self._seen = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: ControlLDM) -> None:
        self._seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: ControlLDM, outputs, batch: dict, batch_idx: int
    ) -> None:
        step, before, self._seen = trainer.global_step, self._seen, trainer.global_step
        stepped = step > before  # not while gradients are being accumulated
        if trainer.is_global_zero and stepped and (step == 1 or step % self.batch_frequency == 0):
            self.log_images(trainer, pl_module, batch, batch_idx)

    def log_images(self, trainer: pl.Trainer, model: ControlLDM, batch: dict, batch_idx: int) -> None:
        """Sample and write the images of one batch now; where memory or a disk does not do, say so and go on."""
        what = f"The image log of step {trainer.global_step} is"
        with surviving_lack_of_memory(what):
            with undisturbed(model), averaged_weights(trainer, model):
                torch.manual_seed(0)
                images = self._images(model, batch)
            with surviving_full_disk(what):
                self._write(trainer, images, batch_idx)

    def _images(self, model: ControlLDM, batch: dict) -> dict[str, Tensor | list[str]]:
        """What the model's `log_images` gives of each sample alone, put together."""
        keys = (model.first_stage_key, model.cond_stage_key, model.control_key, INDEX, MOMENTS)
        read = {key: batch[key] for key in keys if key in batch}
        count = min(map(len, read.values()), default=0)
        rows = {key: values for key, values in batch.items() if _has_rows(values, count)}
        settings = {"N": self.max_images, **self.log_images_kwargs}
        given = min(settings.pop("N"), count)
        with decoding(model):
            each = [
                model.log_images({key: values[k : k + 1] for key, values in {**rows, **read}.items()}, N=1, **settings)
                for k in range(given)
            ]
        return {name: _joined([images[name] for images in each]) for name in each[0]}

    def _write(self, trainer: pl.Trainer, images: dict[str, Tensor | list[str]], batch_idx: int) -> None:
        folder = Path(self.folder or Path(trainer.default_root_dir) / "image_log") / "train"
        folder.mkdir(parents=True, exist_ok=True)
        where = f"gs-{trainer.global_step:06}_e-{trainer.current_epoch:06}_b-{batch_idx:06}"
        for name, shown in images.items():
            picture = grid(shown, like=images["reconstruction"])
            Image.fromarray(picture).save(folder / f"{name}_{where}.png")
            for logger in trainer.loggers:
                if isinstance(logger, pl.loggers.TensorBoardLogger):
                    logger.experiment.add_image(f"train/{name}", picture, trainer.global_step, dataformats="HWC")


def _has_rows(values: Any, count: int) -> bool:
    """Whether values of a batch are one for each of its samples, as far as that can be told."""
    if isinstance(values, Tensor):
        return values.shape[:1] == (count,)
    return isinstance(values, list) and len(values) == count and all(isinstance(value, str) for value in values)
