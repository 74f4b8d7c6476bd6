"""Train a ControlNet for Stable Diffusion 1.5 on Fill50K.

Weights to start from: python tool_add_control.py ./models/v1-5-pruned.ckpt ./models/control_sd15_ini.ckpt
The dataset:           the published fill50k.zip in ./training/fill50k, or python tool_make_fill50k.py
Change a setting:      python tutorial_train.py batch_size=2 learning_rate=2e-6 sd_locked=false
"""

from pathlib import Path

import pytorch_lightning as pl

from cldm.cache.use import use_cache
from cldm.data import Indexed
from cldm.data.loading import ShardLoader, WatchedLoader
from cldm.data.sharded import ShardedDataset
from cldm.data.watch import explained
from cldm.logger import ImageLogger
from cldm.model import load_model
from cldm.training import SaveControl, Settings, from_command_line, require
from tutorial_dataset import open_dataset

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

    hint_channels = model.control_model.hint_channels
    dataset = open_dataset(settings.dataset, settings.frame(), hint_channels, settings.shuffle())
    if settings.cache:  # both encoders run once, before training, and are not in memory then
        reading = (settings.device, settings.num_workers)
        dataset = use_cache(model, dataset, settings.cache, settings.config, weights, *reading)
    reading = {"num_workers": settings.num_workers, "timeout": settings.worker_timeout}
    if isinstance(dataset, ShardedDataset):
        data = ShardLoader(dataset, settings.batch_size, **reading)
    else:  # each sample's noise follows from the seed, the epoch and its index
        data = WatchedLoader(Indexed(dataset), batch_size=settings.batch_size, shuffle=True, drop_last=True, **reading)
    images = ImageLogger(
        batch_frequency=settings.logger_freq,
        log_images_kwargs={
            "ddim_steps": settings.image_steps,
            "unconditional_guidance_scale": settings.image_scale,
        },
    )
    trainer = pl.Trainer(
        accelerator={"cuda": "gpu"}.get(settings.device, settings.device),
        devices=1,
        precision=settings.precision,
        max_steps=settings.max_steps,
        max_epochs=-1,
        default_root_dir=settings.output,
        logger=[pl.loggers.TensorBoardLogger(settings.output), pl.loggers.CSVLogger(settings.output)],
        callbacks=[images, SaveControl(Path(settings.output), settings.save_freq)],
        enable_checkpointing=False,  # SaveControl's files are a quarter of a whole model's
        log_every_n_steps=settings.loss_freq,
    )
    with explained(data.board):  # a worker that dies is reported wherever the training is by then
        trainer.fit(model, data)


if __name__ == "__main__":
    try:
        train(from_command_line(settings))
    except FileNotFoundError as error:
        raise SystemExit(f"error: {error}") from error
