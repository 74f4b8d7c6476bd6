"""Both sides of `bench.learning`: our trainer, a plain loop over diffusers' networks, and the judge of both."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cldm.cldm import ControlLDM
from cldm.data import Indexed
from cldm.fidelity import drawn_shape, iou
from cldm.fill50k import make_fill50k
from cldm.model import load_model, read_config
from cldm.model_files import MINIATURE_SETTINGS
from cldm.pipeline import generate
from cldm.shapes import COLOURS, Scene, sample_scene
from cldm.training import Settings
from cldm.undisturbed import undisturbed
from cldm.weights.add_control import add_control
from cldm.weights.blueprint import Blueprint
from cldm.weights.diffusers_config import diffusers_config
from cldm.weights.diffusers_names import diffusers_names
from cldm.weights.reading import read_weights
from cldm.weights.saving import save_weights
from tests.diffusers_names import autoencoder_names, copy_weights, unet_names
from tutorial_dataset import MyDataset
from tutorial_train import train

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "models/cldm_mini.yaml"
BASE = ROOT / "models/sd_mini.safetensors"
SIZE = 128
_JUDGE_SEED = 20

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
        prompt_dropout: Share of prompts that are replaced by the empty one.
        judged: Held-out hints that each IoU is the mean of.
    """

    steps: int = 1000
    every: int = 50
    pairs: int = 2000
    batch_size: int = 16
    learning_rate: float = 1e-3
    prompt_dropout: float = 0.5
    judged: int = 20


class Judge(pl.Callback):
    """Takes the time of training without its own, and the IoU of generated shapes with those of held-out hints."""

    def __init__(self, course: Course):
        rng = np.random.default_rng(_JUDGE_SEED)
        self.scenes = [sample_scene(rng, shapes=("circle",), from_held_out=True) for _ in range(course.judged)]
        self.course = course
        self.points: list[Point] = []
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: ControlLDM, *_: Any) -> None:
        self.step(trainer.global_step, pl_module)

    def step(self, step: int, model: ControlLDM, control: nn.Module | None = None) -> None:
        """Judge a model after a step if it is time; with `control`, the weights of diffusers' ControlNet."""
        if step % self.course.every and step != self.course.steps:
            return
        before = time.perf_counter()
        if control is not None:
            take_weights(model.control_model, control)
        with undisturbed(model):
            value = float(np.mean([self._follows(model, k, scene) for k, scene in enumerate(self.scenes)]))
        self.points.append((step, before - self._started, value))
        print(f"step {step}: {before - self._started:.1f} s, IoU {value:.3f}", flush=True)
        self._started += time.perf_counter() - before

    def _follows(self, model: ControlLDM, k: int, scene: Scene) -> float:
        settings = replace(MINIATURE_SETTINGS, seed=_JUDGE_SEED + k)
        image = generate(model, scene.outline(SIZE), scene.prompt, settings).images[0]
        return iou(drawn_shape(image, COLOURS[scene.colour], COLOURS[scene.background]), scene.mask(SIZE) > 0.5)


def take_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Give our ControlNet the weights of diffusers'."""
    state, names = theirs.state_dict(), diffusers_names(list(ours.state_dict()))
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    ours.load_state_dict({name: state[names[name]].reshape(shapes[name]) for name in names})


def run(side: str, seed: int, course: Course, folder: Path) -> list[Point]:
    """Train one side from a fresh ControlNet; data and fresh weights are made in `folder` if they are not there."""
    data, fresh = folder / f"fill50k_{course.pairs}", folder / "control_mini_ini.safetensors"
    make_fill50k(data, count=course.pairs, size=SIZE)
    if not fresh.exists():
        model = load_model_blueprint()
        save_weights(add_control(read_weights(BASE), model).weights, fresh)
    return {"ours": ours, "diffusers": diffusers}[side](seed, course, data, fresh, folder)


def load_model_blueprint() -> Blueprint:
    """The names and shapes of the miniature with a ControlNet."""
    from cldm.model import create_model

    return Blueprint.of(create_model(CONFIG), str(CONFIG))


def settings_of(seed: int, course: Course, data: Path, fresh: Path, output: Path, cache: Path) -> Settings:
    """Of our side: nothing but training, so that all time is its own."""
    return Settings(
        config=str(CONFIG),
        resume_path=str(fresh),
        dataset=str(data),
        output=str(output),
        cache=str(cache),
        batch_size=course.batch_size,
        learning_rate=course.learning_rate,
        prompt_dropout=course.prompt_dropout,
        max_steps=course.steps,
        seed=seed,
        device="cpu",
        validation_freq=0,
        logger_freq=10**9,
        save_freq=10**9,
        image_steps=1,
    )


def ours(seed: int, course: Course, data: Path, fresh: Path, folder: Path) -> list[Point]:
    """`tutorial_train.py` with a cache, which is made anew within the time."""
    import tempfile

    with tempfile.TemporaryDirectory(dir=folder) as work:
        judge = Judge(course)
        settings = settings_of(seed, course, data, fresh, Path(work) / "run", Path(work) / "cache")
        train(settings, callbacks=[judge])
    return judge.points


def order(seed: int, course: Course, data: Path) -> Iterator[list[int]]:
    """The batches that our trainer takes, as places in the dataset."""
    dataset = _Places(course.pairs)
    torch.manual_seed(seed)
    raise NotImplementedError(dataset, data)


def diffusers(seed: int, course: Course, data: Path, fresh: Path, folder: Path) -> list[Point]:
    """The loop of diffusers' train_controlnet example: both encoders and the U-Net run at every step."""
    judge = Judge(course)
    model = load_model(CONFIG, fresh, device="cpu")
    nets = Networks.of(model)
    optimizer = torch.optim.AdamW(nets.controlnet.parameters(), lr=course.learning_rate)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    for step, batch in enumerate(batches(seed, course, data), start=1):
        prompts = ["" if rng.random() < course.prompt_dropout else prompt for prompt in batch["txt"]]
        loss = nets.loss(batch["jpg"], batch["hint"], prompts)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        judge.step(step, model, nets.controlnet)
        if step == course.steps:
            return judge.points
    raise ValueError(f"expected batches for {course.steps} steps, got {step}")
