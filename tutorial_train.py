"""Train a ControlNet for Stable Diffusion 1.5 on Fill50K.

Weights to start from: python tool_add_control.py ./models/v1-5-pruned.ckpt ./models/control_sd15_ini.ckpt
The dataset:           the published fill50k.zip in ./training/fill50k, or python tool_make_fill50k.py
Change a setting:      python tutorial_train.py batch_size=2 learning_rate=2e-6 sd_locked=false
Go on with a run:      python tutorial_train.py resume=auto
"""

from collections.abc import Sequence

import pytorch_lightning as pl
from torch.utils.data import Subset

from cldm.cache.use import use_cache
from cldm.data import Indexed
from cldm.data.watch import explained
from cldm.freed_memory import keep_freed_memory
from cldm.launched import check_count, own_device
from cldm.logger import ImageLogger
from cldm.training import (
    PLAIN_ERRORS,
    FirstStep,
    Progress,
    SaveControl,
    Settings,
    StopOnSignal,
    TrainingData,
    economise,
    from_command_line,
    open_run,
    plugins,
    require,
)
from cldm.training.learning import learning_callbacks, set_objective
from cldm.training.loading import Stream
from cldm.training.loggers import loggers
from cldm.training.pairs import encode_pairs, hold_out, without
from cldm.training.processes import ending_together
from cldm.training.settings import HELD_OUT
from tutorial_dataset import MyDataset, open_dataset

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


def train(
    settings: Settings,
    attach: str = "tool_add_control.py ./models/v1-5-pruned.ckpt",
    callbacks: Sequence[pl.Callback] = (),
) -> None:
    """Run one training.

    Args:
        settings: Of the run.
        attach: The command that makes the weights to start from, told where they are missing.
        callbacks: Lightning's, of your own, beside those of this script.
    """
    check_count(settings.device, settings.devices, settings.num_nodes)
    start = require(settings, attach)
    state = open_run(settings)  # None at the beginning; a folder with another run in it is refused
    pl.seed_everything(settings.seed)
    keep_freed_memory(settings.device)  # of one step for the next one, on a CPU

    # The model starts on the CPU; Lightning moves it to the device it trains on.
    model = start.model()
    saving = SaveControl(settings, start, model)
    stopping = StopOnSignal()
    model.train()
    model.learning_rate = settings.learning_rate
    model.sd_locked = settings.sd_locked
    model.only_mid_control = settings.only_mid_control
    set_objective(model, settings)

    taken = (settings.frame(), model.control_model.hint_channels)
    dataset = open_dataset(settings.dataset, *taken, settings.shuffle())
    held_out = hold_out(dataset, settings)  # what the run is judged by is not trained on
    judged = Subset(dataset, held_out) if settings.validation == HELD_OUT else MyDataset(settings.validation, *taken)
    learning = learning_callbacks(encode_pairs(model, judged, settings), settings)
    if settings.cache:  # both encoders run once, before training, and are not in memory then
        device = str(own_device(settings.device, settings.devices))
        reading = (device, settings.num_workers, settings.worker_timeout)
        dataset = use_cache(model, dataset, settings.cache, settings.config, start.model, *reading)
    economise(model, settings)  # optimizer, checkpointing, precision of what is locked
    if not isinstance(dataset, Stream):  # each sample's noise follows from the seed, the epoch and its index
        dataset = without(Indexed(dataset), held_out)
    data = TrainingData(
        dataset,
        batch_size=settings.batch_size,
        seed=settings.seed,
        num_workers=settings.num_workers,
        timeout=settings.worker_timeout,
    )
    images = ImageLogger(
        batch_frequency=settings.logger_freq,
        log_images_kwargs={
            "ddim_steps": settings.image_steps,
            "unconditional_guidance_scale": settings.image_scale,
        },
    )
    own_bar = any(isinstance(each, pl.callbacks.ProgressBar) for each in callbacks)
    trainer = pl.Trainer(
        accelerator={"cuda": "gpu"}.get(settings.device, settings.device),
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=settings.strategy,
        precision=settings.precision,
        accumulate_grad_batches=settings.accumulation,
        gradient_clip_val=settings.gradient_clip or None,
        max_steps=settings.max_steps,
        max_epochs=-1,
        default_root_dir=settings.folder,
        logger=loggers(settings.folder),
        callbacks=[stopping, *([] if own_bar else [Progress()]), FirstStep(), *learning, images, *callbacks, saving],
        plugins=plugins(),
        use_distributed_sampler=False,  # TrainingData gives each process its share
        log_every_n_steps=settings.loss_freq,
    )
    with ending_together(trainer), explained(data.board):  # a reader that dies is reported wherever training is
        trainer.fit(model, data, ckpt_path=state)
    stopping.exit_if_stopped(trainer)


if __name__ == "__main__":
    try:
        train(from_command_line(settings))
    except PLAIN_ERRORS as error:
        raise SystemExit(f"error: {error}") from error
