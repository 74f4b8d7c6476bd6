"""Validations: the same figures at any time, nothing of the run changed, and what they write and report."""

import copy
import csv

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

import runs
from cldm.training import Settings
from cldm.training.ema import Ema
from cldm.training.pairs import encode_pairs
from cldm.training.validation import Point, Validation


def validation(model, folder, every: int = 2, pairs: int = 2, **changes) -> Validation:
    settings = Settings(
        device="cpu", output=str(folder), validation_freq=every, image_steps=2, image_scale=2.0, **changes
    )
    return Validation(encode_pairs(model, runs.items(20)[-pairs:] if pairs else [], settings), settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of four steps with validations every two."""
    folder = tmp_path_factory.mktemp("run")
    model = runs.control_ldm()
    watched = validation(model, folder)
    loggers = [pl.loggers.TensorBoardLogger(folder), pl.loggers.CSVLogger(folder)]
    trainer = runs.fit(model, runs.items(8), [watched], folder, steps=4, logger=loggers)
    return folder, model, watched, trainer


def test_it_validates_before_the_first_step_and_every_so_many(run):
    _, _, watched, _ = run
    assert [point.step for point in watched.points] == [0, 2, 4]
    assert watched.points[0].loss != watched.points[2].loss


def test_training_is_the_same_to_the_bit_with_and_without(run, tmp_path):
    _, model, _, _ = run
    plain = runs.control_ldm()
    runs.fit(plain, runs.items(8), [], tmp_path, steps=4)
    assert runs.same(runs.control_weights(model), runs.control_weights(plain))


def test_the_same_weights_have_the_same_figures_whatever_the_random_numbers(run):
    folder, model, watched, trainer = run
    torch.manual_seed(77)
    again = validation(model, folder)
    again.validate(trainer, model)
    (point,) = again.points
    assert (point.loss, point.fidelity) == (watched.points[-1].loss, watched.points[-1].fidelity)


def test_figures_are_where_checkpoints_and_loggers_find_them(run):
    folder, _, watched, trainer = run
    last = watched.points[-1]
    assert trainer.callback_metrics["val/fidelity"] == pytest.approx(last.fidelity)
    assert trainer.callback_metrics["val/loss"] == pytest.approx(last.loss)
    (file,) = folder.glob("**/metrics.csv")
    rows = [row for row in csv.DictReader(file.open()) if row["val/fidelity"]]
    assert [int(row["step"]) for row in rows] == [0, 2, 4]
    assert [float(row["val/loss"]) for row in rows] == pytest.approx([point.loss for point in watched.points])
    assert list(folder.glob("**/events.out.tfevents.*"))


def test_a_picture_for_each_validation_and_a_curve(run):
    folder, _, watched, _ = run
    names = {"curve.png", "samples_000000.png", "samples_000002.png", "samples_000004.png"}
    assert {path.name for path in (folder / "validation").iterdir()} == names
    picture = np.array(Image.open(folder / "validation/samples_000004.png"))
    assert picture.shape == (3 * runs.SIZE, 2 * runs.SIZE, 3)
    assert np.array_equal(picture[2 * runs.SIZE :, : runs.SIZE], watched.pairs[0].target)


def test_training_losses_between_validations_are_averaged(run, tmp_path):
    _, _, watched, _ = run
    (file,) = run[0].glob("**/metrics.csv")
    losses = [float(row["train/loss_simple"]) for row in csv.DictReader(file.open()) if row["train/loss_simple"]]
    assert watched.points[1].training_loss == pytest.approx(np.mean(losses[:2]))
    assert watched.points[2].training_loss == pytest.approx(np.mean(losses[2:]))
    assert np.isnan(watched.points[0].training_loss)


def test_the_last_step_is_validated_as_well(tmp_path):
    model = runs.control_ldm()
    watched = validation(model, tmp_path, every=100, pairs=1)
    runs.fit(model, runs.items(2), [watched], tmp_path, steps=1)
    assert [point.step for point in watched.points] == [0, 1]


def test_with_accumulation_a_step_is_validated_once(tmp_path):
    model = runs.control_ldm()
    watched = validation(model, tmp_path, every=1, pairs=1)
    runs.fit(model, runs.items(4), [watched], tmp_path, steps=2, batch_size=1, accumulate_grad_batches=2)
    assert [point.step for point in watched.points] == [0, 1, 2]


def test_averaged_weights_are_judged(run):
    folder, model, _, trainer = run
    own, averaged = validation(model, folder), validation(model, folder)
    ema = Ema(0.5)
    ema.averages = {f"control_model.{name}": torch.zeros_like(p) for name, p in model.control_model.named_parameters()}
    own.validate(trainer, model)
    trainer.callbacks.append(ema)
    averaged.validate(trainer, model)
    trainer.callbacks.remove(ema)
    assert averaged.points[0].loss != own.points[0].loss
    with ema.averaged(model):
        own.validate(trainer, model)
    assert own.points[1].loss == averaged.points[0].loss


def test_the_step_at_which_control_was_learnt_is_reported_once(run, tmp_path, capsys):
    _, model, _, trainer = run
    watched = validation(model, tmp_path, pairs=1)
    watched.points = [Point(step, 0.1, 0.1, fidelity) for step, fidelity in enumerate([0.1] * 5 + [0.8] * 3)]
    watched.measure = watched.measure._replace(of=lambda image, pair: 0.8)
    for _ in range(2):
        watched.validate(trainer, model)
    said = capsys.readouterr().out
    assert said.count("the control was learnt between steps 4 and 5: fidelity rose from 0.10 to 0.80") == 1
    assert watched.learned.step == 5


def test_what_was_found_is_resumed_as_plain_data(run, tmp_path):
    folder, model, watched, _ = run
    torch.save(watched.state_dict(), tmp_path / "state.pt")
    again = validation(model, folder)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert str(again.points) == str(watched.points)
    assert again.learned == watched.learned


def test_lack_of_memory_leaves_one_out_and_training_as_it_is(tmp_path, monkeypatch):
    model, plain = runs.control_ldm(), runs.control_ldm()
    watched = validation(model, tmp_path, every=1, pairs=1)
    decode = model.decode_first_stage

    def fails_once(z):
        monkeypatch.setattr(model, "decode_first_stage", decode)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(model, "decode_first_stage", fails_once)
    with pytest.warns(UserWarning, match=r"The validation of step 0 is left out, since memory does not do \(CUDA out"):
        runs.fit(model, runs.items(2), [watched], tmp_path, steps=1)
    runs.fit(plain, runs.items(2), [], tmp_path, steps=1)
    assert [point.step for point in watched.points] == [1]
    assert runs.same(runs.control_weights(model), runs.control_weights(plain))


def test_lack_of_memory_in_another_process_is_told_with_its_rank(run, tmp_path, monkeypatch):
    _, model, _, trainer = run
    watched = validation(model, tmp_path, pairs=1)
    monkeypatch.setattr("cldm.training.validation.of_all_processes", lambda own: [own, None, own, None])
    with pytest.warns(UserWarning, match=r"validation of step 4 is left out.* rank 1, 3 of 4; training goes on"):
        watched.validate(trainer, model)
    assert watched.points == []


def test_without_pairs_it_does_nothing(tmp_path):
    model = runs.control_ldm()
    watched = validation(model, tmp_path, every=1, pairs=0)
    runs.fit(model, runs.items(2), [watched], tmp_path, steps=1)
    assert watched.points == []
    assert not (tmp_path / "validation").exists()


@pytest.fixture
def one_thread(monkeypatch):
    """Here and in the processes that are started: sums in another order are rounded otherwise."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_two_processes_share_the_pairs_and_find_the_same(run, one_thread, tmp_path):
    _, model, _, trainer = run
    alone = validation(model, tmp_path, pairs=3)
    alone.validate(trainer, model)
    shared = validation(model, tmp_path / "two", pairs=3)
    several = {"devices": 2, "strategy": "ddp_spawn", "logger": [pl.loggers.CSVLogger(tmp_path / "two")]}
    runs.fit(copy.deepcopy(model), runs.items(4), [shared], tmp_path / "two", steps=1, **several)
    (file,) = (tmp_path / "two").glob("**/metrics.csv")
    rows = [row for row in csv.DictReader(file.open()) if row["val/loss"]]
    assert [int(row["step"]) for row in rows] == [0, 1]
    assert float(rows[0]["val/loss"]) == alone.points[0].loss
    assert float(rows[0]["val/fidelity"]) == alone.points[0].fidelity
    assert len(list((tmp_path / "two/validation").glob("samples_*"))) == 2
