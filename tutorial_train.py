"""Train a ControlNet for Stable Diffusion 1.5 on Fill50K.

Weights to start from: python tool_add_control.py ./models/v1-5-pruned.ckpt ./models/control_sd15_ini.ckpt
The dataset:           the published fill50k.zip in ./training/fill50k, or python tool_make_fill50k.py
Change a setting:      python tutorial_train.py batch_size=2 learning_rate=2e-6 sd_locked=false
"""

from pathlib import Path

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Subset

from cldm.cache.use import use_cache
from cldm.data import Indexed
from cldm.logger import ImageLogger
from cldm.model import load_model
from cldm.training import SaveControl, Settings, from_command_line, require
from cldm.training.ema import Ema
from cldm.training.guard import NotANumberGuard
from cldm.training.pairs import encode_pairs, hold_out, without
from cldm.training.settings import FROM_CONFIG, HELD_OUT
from cldm.training.validation import Validation
from tutorial_dataset import MyDataset

settings = Settings(
    config="./models/cldm_v15.yaml",
    resume_path="./models/control_sd15_ini.ckpt",
    dataset="./training/fill50k",
    batch_size=4,
    learning_rate=1e-5,
    logger_freq=300,
    sd_locked=True,
    only_mid_control=False,
    prompt_dropout=0.5,
)


def train(settings: Settings, attach: str = "tool_add_control.py ./models/v1-5-pruned.ckpt") -> None:
    """Run one training; `attach` is the command that makes the weights to start from, told where they are missing."""
    weights = require(settings, attach)
    pl.seed_everything(settings.seed)

    # The model starts on the CPU; Lightning moves it to the device it trains on.
    model = load_model(settings.config, weights, device="cpu")
    model.train()
    model.learning_rate = settings.learning_rate
    model.sd_locked = settings.sd_locked
    model.only_mid_control = settings.only_mid_control
    model.prompt_dropout = settings.prompt_dropout
    model.seed = settings.seed
    model.min_snr_gamma = settings.min_snr_gamma
    model.noise_offset = settings.noise_offset
    if settings.parameterization != FROM_CONFIG:
        model.parameterization = settings.parameterization

    dataset = MyDataset(settings.dataset)
    held_out = hold_out(dataset, settings)
    judged = Subset(dataset, held_out) if settings.validation == HELD_OUT else MyDataset(settings.validation)
    validation = Validation(encode_pairs(model, judged, settings), settings)
    if settings.cache:  # both encoders run once, before training, and are not in memory then
        reading = (settings.device, settings.num_workers)
        dataset = use_cache(model, dataset, settings.cache, settings.config, weights, *reading)
    data = DataLoader(
        without(Indexed(dataset), held_out),  # each sample's noise follows from the seed, the epoch and its index
        batch_size=settings.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=settings.num_workers,
    )
    images = ImageLogger(
        batch_frequency=settings.logger_freq,
        log_images_kwargs={
            "ddim_steps": settings.image_steps,
            "unconditional_guidance_scale": settings.image_scale,
        },
    )
    learning = [NotANumberGuard(settings.nan_patience), validation]
    if settings.ema_decay:
        learning.insert(1, Ema(settings.ema_decay))
    trainer = pl.Trainer(
        accelerator={"cuda": "gpu"}.get(settings.device, settings.device),
        devices=1,
        precision=settings.precision,
        max_steps=settings.max_steps,
        max_epochs=-1,
        default_root_dir=settings.output,
        logger=[pl.loggers.TensorBoardLogger(settings.output), pl.loggers.CSVLogger(settings.output)],
        callbacks=[*learning, images, SaveControl(Path(settings.output), settings.save_freq)],
        enable_checkpointing=False,  # SaveControl's files are a quarter of a whole model's
        log_every_n_steps=settings.loss_freq,
    )
    trainer.fit(model, data)


if __name__ == "__main__":
    try:
        train(from_command_line(settings))
    except (FileNotFoundError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from error
