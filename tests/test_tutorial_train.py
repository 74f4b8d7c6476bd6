"""tutorial_train.py on the tiny model: what it trains, what it leaves, and that it is the same each time."""

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cldm.model import load_model
from cldm.training import Settings
from cldm.weights.reading import read_weights
from training_runs import tiny_settings

ROOT = Path(__file__).resolve().parents[1]
STEPS = 4


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    folder = tmp_path_factory.mktemp("train")
    return tiny_settings(folder, samples=8, max_steps=STEPS, logger_freq=2, image_steps=2)


def run(settings: Settings) -> Path:
    """Train by the script, as a user does; returns the run's folder."""
    given = [f"{name}={getattr(settings, name)}" for name in Settings.__dataclass_fields__]
    subprocess.run([sys.executable, "tutorial_train.py", *given], cwd=ROOT, check=True, capture_output=True)
    return Path(settings.output)


@pytest.fixture(scope="module")
def trained(settings) -> Path:
    return run(settings)


def test_only_the_controlnet_changes_and_its_zero_convolutions_learn(settings, trained):
    before = read_weights(settings.resume_path)
    after = read_weights(trained / f"control_{STEPS:06}.safetensors")
    assert set(after) == {name for name in before if name.startswith("control_model.")}
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    assert {"control_model.zero_convs.0.0.weight", "control_model.input_hint_block.0.weight"} <= set(changed)


def test_the_saved_control_loads_onto_its_base(settings, trained):
    model = load_model(settings.config, settings.resume_path, trained / f"control_{STEPS:06}.safetensors", device="cpu")
    saved = read_weights(trained / f"control_{STEPS:06}.safetensors")
    assert torch.equal(model.control_model.zero_convs[0][0].weight, saved["control_model.zero_convs.0.0.weight"])


def test_what_a_run_leaves(trained):
    assert {file.name for file in trained.iterdir() if file.is_file()} == {
        "control_000002.safetensors",
        "control_000004.safetensors",
        "state_000002.pt",
        "state_000004.pt",
        "settings.yaml",
    }
    images = {file.name for file in (trained / "image_log/train").iterdir()}
    kinds = ["reconstruction", "control", "conditioning", "samples_cfg_scale_9.00"]
    assert images == {
        f"{kind}_gs-{step:06}_e-{epoch:06}_b-{batch:06}.png"
        for kind in kinds
        for step, epoch, batch in ((1, 0, 0), (2, 0, 1), (4, 0, 3))
    }
    assert list(trained.glob("lightning_logs/**/events.out.tfevents.*"))
    assert not list(trained.glob("**/*.ckpt")), "whole models are not saved"


def test_the_same_settings_give_the_same_weights(settings, trained, tmp_path):
    again = run(replace(settings, output=str(tmp_path), logger_freq=3, save_freq=100))
    a, b = (read_weights(folder / f"control_{STEPS:06}.safetensors") for folder in (trained, again))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_with_validations_the_weights_are_the_same_and_the_figures_are_there(settings, trained, tmp_path):
    folder = run(replace(settings, validation=settings.dataset, validation_freq=2, output=str(tmp_path), logger_freq=4))
    a, b = (read_weights(where / f"control_{STEPS:06}.safetensors") for where in (folder, trained))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert len(logged(folder, "val/fidelity")) == 3
    assert {file.name for file in (folder / "validation").iterdir()} == {
        "curve.png",
        *(f"samples_{step:06}.png" for step in (0, 2, 4)),
    }
    assert (folder / "control_best.safetensors").is_file()


@pytest.mark.slow
def test_with_a_cache_and_averages_validations_work_as_well(settings, tmp_path):
    changes = {"cache": str(tmp_path / "cache"), "ema_decay": 0.9, "min_snr_gamma": 5.0, "noise_offset": 0.1}
    folder = run(replace(settings, validation=settings.dataset, output=str(tmp_path / "run"), max_steps=2, **changes))
    assert len(logged(folder, "val/loss")) == 2


def test_unlocked_the_decoder_learns_too(settings, tmp_path):
    folder = run(replace(settings, sd_locked=False, output=str(tmp_path), max_steps=2))
    before = read_weights(settings.resume_path)
    after = read_weights(folder / "control_000002.safetensors")
    decoder = {name for name in after if name.startswith("model.diffusion_model.")}
    assert decoder == {
        n for n in before if n.startswith(("model.diffusion_model.output_blocks.", "model.diffusion_model.out."))
    }
    assert all(not torch.equal(after[name], before[name]) for name in decoder if name.endswith("out.2.weight"))


def logged(folder: Path, name: str) -> list[float]:
    rows = [row for file in folder.glob("**/metrics.csv") for row in csv.DictReader(file.open())]
    return [float(row[name]) for row in rows if row[name]]


def test_losses_are_logged(trained):
    losses = logged(trained, "train/loss_simple")
    assert losses
    assert all(0 < loss < 10 for loss in losses)


def test_the_share_of_dropped_prompts_is_logged(trained):
    shares = logged(trained, "train/prompts_dropped")
    assert len(shares) == STEPS
    assert set(shares) <= {0, 0.5, 1}


def test_with_a_cache_losses_are_the_same(settings, tmp_path):
    one = replace(settings, batch_size=1, logger_freq=4)  # as the cache encodes; larger batches round otherwise
    plain = run(replace(one, output=str(tmp_path / "plain")))
    folder = run(replace(one, cache=str(tmp_path / "cache"), output=str(tmp_path / "run")))
    assert logged(folder, "train/loss_simple") == pytest.approx(logged(plain, "train/loss_simple"), rel=1e-6)
    assert logged(folder, "train/prompts_dropped") == logged(plain, "train/prompts_dropped")
    assert list((folder / "image_log/train").glob("samples_*"))
