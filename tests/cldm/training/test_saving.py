"""When a run saves, what it keeps, and what becomes of a full disk."""

import errno
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from cldm.fill50k import make_fill50k
from cldm.training import run_folder
from cldm.training.state import StateError
from cldm.weights.reading import read_weights
from cldm.weights.saving import read_metadata
from training_runs import Record
from tutorial_train import train


def names(settings) -> set[str]:
    return {file.name for file in Path(settings.output).iterdir() if file.is_file()}


class Fidelity(pl.Callback):
    """Reports a figure at some steps, as a validation does."""

    def __init__(self, figures: dict[int, float]):
        self.figures = figures

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step in self.figures:
            pl_module.log("val/fidelity", self.figures[trainer.global_step])


def test_the_last_ones_and_the_best_are_kept(settings):
    settings = replace(
        settings, keep_last=2, keep_states=1, save_precision="float16", save_full=True, save_freq=1, max_steps=5
    )
    train(settings, callbacks=[Fidelity({1: 0.2, 2: 0.7, 3: float("nan"), 4: 0.6})])
    assert names(settings) == {
        "settings.yaml",
        "control_000004.safetensors",
        "control_000005.safetensors",
        "control_best.safetensors",
        "model_000005.safetensors",
        "state_000005.pt",
    }
    best = Path(settings.output) / "control_best.safetensors"
    assert read_metadata(best)["step"] == "2"
    assert read_metadata(best)["val/fidelity"].startswith("0.69999") or read_metadata(best)["val/fidelity"] == "0.7"
    assert {tensor.dtype for tensor in read_weights(best).values()} == {torch.float16}
    state = torch.load(Path(settings.output) / "state_000005.pt", weights_only=True)
    assert {tensor.dtype for tensor in state["state_dict"].values()} == {torch.float32}


def test_the_best_of_all_is_known_after_a_resume(settings):
    settings = replace(settings, max_steps=2)
    train(settings, callbacks=[Fidelity({1: 0.7})])
    best = (Path(settings.output) / "control_best.safetensors").read_bytes()
    train(replace(settings, max_steps=3, resume="auto"), callbacks=[Fidelity({3: 0.6})])
    assert (Path(settings.output) / "control_best.safetensors").read_bytes() == best


def test_with_the_decoder_unlocked_the_base_is_saved_too(settings):
    train(replace(settings, sd_locked=False, max_steps=2, save_freq=1))
    assert {name for name in names(settings) if name.startswith("base")} == {"base_000002.safetensors"}
    base = read_weights(Path(settings.output) / "base_000002.safetensors")
    before = read_weights(settings.resume_path)
    changed = {name.split(".")[2] for name, tensor in base.items() if not torch.equal(tensor, before.get(name, tensor))}
    assert changed <= {"output_blocks", "out"}
    assert changed


def test_a_full_disk_is_told_and_training_goes_on(settings, disk_that_fills, monkeypatch):
    told = []
    monkeypatch.setattr("cldm.training.saving.rank_zero_info", told.append)
    with ExitStack() as stack:
        fill = Record(3, lambda: stack.enter_context(disk_that_fills(1_000_000)))
        train(replace(settings, max_steps=6, keep_last=1, keep_states=1), callbacks=[fill, Record(5, stack.close)])
    assert len(told) == 1
    assert "Training goes on" in told[0]
    assert names(settings) == {"settings.yaml", "control_000006.safetensors", "state_000006.pt"}


def test_a_full_disk_at_the_last_step_is_an_error_and_what_was_saved_stays(settings, disk_that_fills):
    with ExitStack() as stack:
        fill = Record(3, lambda: stack.enter_context(disk_that_fills(1_000_000)))
        with pytest.raises(OSError, match="the last step could not be saved"):
            train(replace(settings, max_steps=4, keep_last=1), callbacks=[fill])
    assert names(settings) == {"settings.yaml", "control_000002.safetensors", "state_000002.pt"}


@pytest.mark.filterwarnings("ignore:.*left out, since a file could not be written")
def test_pictures_on_a_full_disk_do_not_end_a_run(settings, monkeypatch):
    make_fill50k(Path(settings.output).parent / "held_out", count=2, size=64, workers=1)
    save = Image.Image.save

    def fill(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    full = Record(2, lambda: monkeypatch.setattr(Image.Image, "save", fill))
    empty = Record(4, lambda: monkeypatch.setattr(Image.Image, "save", save))
    often = {"logger_freq": 1, "validation_freq": 1, "validation": str(Path(settings.output).parent / "held_out")}
    train(replace(settings, max_steps=4, **often), callbacks=[full, empty])
    logged = {file.name.split("_")[-3] for file in (Path(settings.output) / "image_log").rglob("samples_*")}
    assert logged == {"gs-000001", "gs-000004"}
    judged = {file.name for file in (Path(settings.output) / "validation").glob("samples_*")}
    assert judged == {f"samples_00000{step}.png" for step in (0, 1, 4)}
    assert "control_000004.safetensors" in names(settings)


def test_a_resumed_run_trains_at_the_rate_that_it_is_given(settings):
    train(replace(settings, max_steps=2))
    rates = []

    class Rates(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            rates.append([optimizer.param_groups[0][name] for name in ("lr", "weight_decay")])

    train(replace(settings, max_steps=4, resume="auto", learning_rate=1e-5, weight_decay=0.5), callbacks=[Rates()])
    assert rates == [[1e-5, 0.5]] * 2


def test_a_run_goes_on_with_less_memory(settings):
    train(replace(settings, max_steps=2))
    train(replace(settings, max_steps=3, resume="auto", low_memory=True))
    assert "control_000003.safetensors" in names(settings)


def test_a_run_does_not_go_on_with_other_data(settings, tmp_path):
    train(replace(settings, max_steps=2))
    make_fill50k(tmp_path / "more", count=9, size=64, workers=1)
    with pytest.raises(StateError, match="trained on 7 samples and this one would on 9: resume with the dataset"):
        train(replace(settings, max_steps=4, resume="auto", dataset=str(tmp_path / "more")))


def test_settings_are_written_once_the_first_step_is_done(settings):
    def fail():
        raise MemoryError

    with pytest.raises(MemoryError):
        train(settings, callbacks=[Record(1, fail)])
    assert names(settings) == set()
    assert run_folder.open_run(settings) is None, "the next try finds the folder free"


def test_with_averages_these_are_saved_and_the_state_has_both(settings):
    settings = replace(settings, ema_decay=0.5, save_freq=2, max_steps=2)
    train(settings)
    saved = read_weights(Path(settings.output) / "control_000002.safetensors")
    state = torch.load(Path(settings.output) / "state_000002.pt", weights_only=True)
    (averages,) = (each["averages"] for each in state["callbacks"].values() if "averages" in each)
    assert saved.keys() == averages.keys()
    assert all(torch.equal(tensor, averages[name]) for name, tensor in saved.items())
    assert any(not torch.equal(tensor, state["state_dict"][name]) for name, tensor in saved.items())
