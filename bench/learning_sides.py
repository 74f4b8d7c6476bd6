"""Both sides of `bench.learning`: our trainer, a plain loop over diffusers' networks, and the judge of both."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import CLIPTextConfig, CLIPTextModel

from cldm.cldm import ControlLDM
from cldm.fidelity import drawn_shape, iou
from cldm.fill50k import make_fill50k
from cldm.model import read_config
from cldm.model_files import MINIATURE_SETTINGS
from cldm.pipeline import generate
from cldm.shapes import COLOURS, Scene, sample_scene
from cldm.training import Settings, require
from cldm.training.order import Share, epoch_order
from cldm.weights.diffusers_config import diffusers_config
from cldm.weights.diffusers_names import diffusers_names
from ldm.models.diffusion.draws import Draws
from ldm.modules.encoders.modules import VOCABULARY, tokenize
from tests.diffusers_names import autoencoder_names, controlnet_names, copy_weights, unet_names
from tutorial_dataset import MyDataset
from tutorial_train import train

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "models/cldm_mini.yaml"
BASE = ROOT / "models/sd_mini.safetensors"
SIZE = 128
_JUDGE_SEED = 20
_NEVER = 10**9

Point = tuple[int, float, float]
"""Steps, seconds of training, IoU."""


@dataclass(frozen=True)
class Course:
    """What both sides do.

    Attributes:
        steps: Of training.
        every: Steps from one judgement to the next.
        pairs: In the dataset.
        batch_size: Pairs a step.
        learning_rate: Of AdamW; high, because the miniature is small.
        warmup_steps: In which the learning rate rises.
        schedule: Of the learning rate from there, see `cldm.optimization.schedules`. One that falls leaves little to a
            control that sets in late, as chance will have it with either side.
        gradient_clip: Largest norm of all gradients together.
        beta2: Of AdamW.
        prompt_dropout: Share of prompts that are replaced by the empty one.
        judged: Held-out hints that each IoU is the mean of.
    """

    steps: int = 600
    every: int = 50
    pairs: int = 1000
    batch_size: int = 16
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    schedule: str = "constant"
    gradient_clip: float = 1.0
    beta2: float = 0.99
    prompt_dropout: float = 0.1
    judged: int = 8


class Judge(pl.Callback):
    """Takes the time of training, without its own, and the IoU of generated shapes with those of held-out hints.

    Args:
        course: Of both sides.
        model: That generates, with the trained ControlNet's weights; not the one that is trained.
    """

    def __init__(self, course: Course, model: ControlLDM):
        rng = np.random.default_rng(_JUDGE_SEED)
        self.scenes = [sample_scene(rng, shapes=("circle",), from_held_out=True) for _ in range(course.judged)]
        self.course = course
        self.model = model.requires_grad_(False)
        self.points: list[Point] = []
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: ControlLDM, *_: Any) -> None:
        self.after(trainer.global_step, pl_module.control_model.state_dict)

    def after(self, step: int, weights: Callable[[], dict[str, Tensor]]) -> None:
        """Judge a ControlNet, given by the function that gives its weights, if it is time to."""
        if step % self.course.every and step != self.course.steps:
            return
        now = time.perf_counter()
        self.model.control_model.load_state_dict(weights())
        with torch.random.fork_rng(devices=[]):
            value = float(np.mean([self._overlap(k, scene) for k, scene in enumerate(self.scenes)]))
        self.points.append((step, now - self._started, value))
        print(f"step {step}: {now - self._started:.1f} s, IoU {value:.3f}", flush=True)
        self._started += time.perf_counter() - now

    def _overlap(self, k: int, scene: Scene) -> float:
        settings = replace(MINIATURE_SETTINGS, seed=_JUDGE_SEED + k)
        image = generate(self.model, scene.outline(SIZE), scene.prompt, settings).images[0]
        return iou(drawn_shape(image, COLOURS[scene.colour], COLOURS[scene.background]), scene.mask(SIZE) > 0.5)


def run(side: str, seed: int, course: Course, folder: Path) -> list[Point]:
    """Train one side from a fresh ControlNet; the dataset is made in `folder` if it is not there."""
    data = folder / f"fill50k_{course.pairs}"
    make_fill50k(data, count=course.pairs, size=SIZE)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        settings = settings_of(seed, course, data, Path(work))
        judge = Judge(course, require(settings, "").model())  # its time begins here
        if side == "ours":
            train(settings, callbacks=[judge])
        else:
            train_diffusers(settings, judge)
    return judge.points


def settings_of(seed: int, course: Course, data: Path, work: Path) -> Settings:
    """Of a run that does nothing but train; the cache is new, so that its making is part of the time."""
    return Settings(
        config=str(CONFIG),
        base=str(BASE),
        dataset=str(data),
        output=str(work / "run"),
        cache=str(work / "cache"),
        batch_size=course.batch_size,
        learning_rate=course.learning_rate,
        warmup_steps=course.warmup_steps,
        schedule=course.schedule,
        gradient_clip=course.gradient_clip,
        beta2=course.beta2,
        prompt_dropout=course.prompt_dropout,
        max_steps=course.steps,
        seed=seed,
        device="cpu",
        validation_freq=0,
        logger_freq=_NEVER,
        save_freq=_NEVER,
        image_steps=1,  # the first step is logged always
    )


def batches(settings: Settings) -> Iterator[tuple[Draws, dict[str, Any]]]:
    """What our trainer sees, in its order, without end, and what chance decides there."""
    dataset = MyDataset(settings.dataset)
    share = Share(len(dataset), settings.batch_size)
    for epoch in count():
        order = epoch_order(len(dataset), settings.seed, epoch)
        chosen = [order[list(places)].tolist() for places in share.batches(epoch)]
        for indices, batch in zip(chosen, DataLoader(dataset, batch_sampler=chosen), strict=True):
            yield Draws(settings.seed, epoch, indices), batch


def train_diffusers(settings: Settings, judge: Judge) -> None:
    """The loop of diffusers' train_controlnet example, with our settings, dropped prompts among them."""
    networks = Networks(require(settings, "").model())
    weights, betas = list(networks.controlnet.parameters()), (settings.beta1, settings.beta2)
    optimizer = torch.optim.AdamW(weights, settings.learning_rate, betas, weight_decay=settings.weight_decay)
    lengths = {"num_warmup_steps": settings.warmup_steps, "num_training_steps": settings.max_steps}
    schedule = {"constant": "constant_with_warmup"}.get(settings.schedule, settings.schedule)
    rate = get_scheduler(schedule, optimizer, **lengths)
    rate.step()  # ours begins with a first share of the learning rate, not with none
    for step, (draws, batch) in enumerate(batches(settings), start=1):
        dropped = draws.dropped(settings.prompt_dropout)
        prompts = ["" if drop else prompt for drop, prompt in zip(dropped, batch["txt"], strict=True)]
        networks.loss(batch["jpg"], batch["hint"], prompts, draws).backward()
        torch.nn.utils.clip_grad_norm_(weights, settings.gradient_clip)
        optimizer.step()
        rate.step()
        optimizer.zero_grad(set_to_none=True)
        judge.after(step, lambda: take(networks.controlnet, judge.model.control_model))
        if step == settings.max_steps:
            return


def take(theirs: nn.Module, ours: nn.Module) -> dict[str, Tensor]:
    """The weights of diffusers' ControlNet by the names and in the shapes of our network."""
    own, tensors = ours.state_dict(), theirs.state_dict()
    names = diffusers_names(list(own))
    return {name: tensors[names[name]].reshape(tensor.shape) for name, tensor in own.items()}


class Networks:
    """diffusers' networks with the weights of a ControlLDM of the miniature's kind, and their loss."""

    def __init__(self, model: ControlLDM):
        params = read_config(CONFIG)["params"]
        own = {k: v for k, v in diffusers_config(params["control_stage_config"]["params"]).items() if k[0] != "_"}
        self.controlnet = ControlNetModel(**own)
        shared = {k: v for k, v in own.items() if not k.startswith("conditioning")}
        up = [block.replace("Down", "Up") for block in reversed(own["down_block_types"])]
        self.unet = UNet2DConditionModel(out_channels=params["channels"], up_block_types=up, **shared)
        levels = params["first_stage_config"]["params"]["ddconfig"]
        self.vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * len(levels["ch_mult"]),
            up_block_types=["UpDecoderBlock2D"] * len(levels["ch_mult"]),
            block_out_channels=[levels["ch"] * mult for mult in levels["ch_mult"]],
            layers_per_block=levels["num_res_blocks"],
            norm_num_groups=levels["num_groups"],
            scaling_factor=model.scale_factor,
        )
        text = params["cond_stage_config"]["params"]
        config = CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=text["width"],
            intermediate_size=4 * text["width"],
            num_hidden_layers=text["layers"],
            num_attention_heads=text["heads"],
            hidden_act="quick_gelu",
        )
        self.text_encoder = CLIPTextModel(config)
        copy_weights(model.control_model, self.controlnet, controlnet_names(self.controlnet))
        copy_weights(model.model.diffusion_model, self.unet, unet_names(self.unet))
        copy_weights(model.first_stage_model, self.vae, autoencoder_names(self.vae))
        self.text_encoder.load_state_dict(model.cond_stage_model.transformer["text_model"].state_dict(), strict=False)
        for locked in (self.unet, self.vae, self.text_encoder):
            locked.requires_grad_(False)
        self.pad, self.length = model.cond_stage_model.pad, model.cond_stage_model.max_length
        self.scheduler = DDPMScheduler(
            beta_start=params["linear_start"],
            beta_end=params["linear_end"],
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
        )
        self.vae.eval(), self.text_encoder.eval(), self.controlnet.train()

    def loss(self, image: Tensor, hint: Tensor, prompts: list[str], draws: Draws) -> Tensor:
        """Of a batch: images (b, h, w, 3) in [-1, 1], hints (b, h, w, 3) in [0, 1]."""
        pixels, hint = (rearrange(values, "b h w c -> b c h w").contiguous() for values in (image, hint))
        posterior = self.vae.encode(pixels).latent_dist
        latents = (posterior.mean + posterior.std * draws.posterior(posterior.mean)) * self.vae.config.scaling_factor
        noise, t = draws.noise(latents), draws.timesteps(self.scheduler.config.num_train_timesteps)
        noisy = self.scheduler.add_noise(latents, noise, t)
        context = self.text_encoder(tokenize(prompts, self.length, self.pad))[0]
        down, middle = self.controlnet(noisy, t, context, hint, return_dict=False)
        predicted = self.unet(
            noisy,
            t,
            context,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        return F.mse_loss(predicted.float(), self.scheduler.get_velocity(latents, noise, t).float())
