"""Runs of the tiny model by `tutorial_train.train`, in this process or, as a script, in one that may be killed.

As a script: `python training_runs.py FOLDER SIGNAL@STEP name=value ...`; 0@0 for no signal. Each process leaves in
FOLDER what it saw, and the first of them its gradients.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import tiny
from cldm.fill50k import make_fill50k
from cldm.training import Settings, from_command_line
from ldm.models.diffusion.draws import INDEX
from tutorial_train import train

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = 7  # with batches of 2, an epoch is 3 steps, and one sample is left out


def tiny_settings(folder: Path, samples: int = SAMPLES, **changes: Any) -> Settings:
    """Settings of a short run, but for changes, with its weights and its data in a folder."""
    config, weights = tiny.write_model(folder)
    make_fill50k(folder / "data", count=samples, size=64, workers=1)
    settings = Settings(
        config=str(config),
        resume_path=str(weights),
        dataset=str(folder / "data"),
        output=str(folder / "run"),
        batch_size=2,
        learning_rate=1e-3,
        max_steps=8,
        logger_freq=100,
        loss_freq=1,
        save_freq=2,
        keep_last=0,
        keep_states=9,
        image_steps=1,
        device="cpu",
    )
    return replace(settings, **changes)


class Record(pl.Callback):
    """Keeps which samples were seen, in which step and epoch, and acts before a step.

    Args:
        at: The step, from 1.
        act: What to do when its batch is there.
    """

    def __init__(self, at: int = 0, act: Any = None):
        self.at = at
        self.act = act
        self.seen: list[tuple[int, int, list[int]]] = []
        self.gradients: dict[str, torch.Tensor] = {}
        self.drawn: dict[int, float] = {}  # from the process's own generator, which nothing else here draws from

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step + 1
        self.seen.append((step, trainer.current_epoch, batch[INDEX].tolist()))
        self.drawn[step] = torch.rand(()).item()
        if step == self.at:
            self.act()

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step == 0:
            named = pl_module.named_parameters()
            self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}


def run(settings: Settings, record: Record | None = None) -> Record:
    """Train in this process."""
    record = record or Record()
    train(settings, callbacks=[record])
    return record


def run_apart(
    settings: Settings, folder: Path, signal_and_step: str = "0@0", torchrun: int = 0
) -> subprocess.CompletedProcess:
    """Train in a process of its own, or several, which torchrun starts if it is given their number; output is text."""
    given = [f"{name}={getattr(settings, name)}" for name in Settings.__dataclass_fields__]
    folder.mkdir(exist_ok=True)
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={torchrun}"] if torchrun else []
    command = [sys.executable, *start, __file__, str(folder), signal_and_step, *given]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    threads = max(1, torch.get_num_threads() // settings.devices)  # another number of them would round otherwise
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def seen_by(folder: Path, rank: int) -> list[tuple[int, int, list[int]]]:
    """What a process of `run_apart` saw."""
    return [tuple(each) for each in json.loads((folder / f"seen_{rank}.json").read_text())]


def main(folder: str, signal_and_step: str, *assignments: str) -> None:
    number, step = map(int, signal_and_step.split("@"))
    settings = from_command_line(Settings(), assignments)
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    is_last = rank == settings.devices - 1  # which alone gets the signal
    record = Record(step if is_last else 0, partial(os.kill, os.getpid(), number))
    try:
        run(settings, record)
    finally:
        (Path(folder) / f"seen_{rank}.json").write_text(json.dumps(record.seen))
        if rank == 0:
            torch.save(record.gradients, Path(folder) / "gradients.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
