"""The image log: files, their names and values, and the run's random numbers left alone."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from cldm.logger import ImageLogger, grid, text_image
from ldm.models.diffusion.ddpm import MOMENTS
from ldm.models.diffusion.draws import INDEX


class Model(torch.nn.Module):
    """Stands in for a ControlLDM: draws random samples."""

    first_stage_key, cond_stage_key, control_key = "jpg", "txt", "hint"

    def __init__(self, error=None):
        super().__init__()
        self.locked = torch.nn.Identity().eval()
        self.error = error

    def log_images(self, batch, N, **settings):
        assert not self.training
        assert not torch.is_grad_enabled()
        assert {N} == {len(values) for values in batch.values()} == {1}, "one sample at a time"
        drawn = torch.randn(N, 3, 64, 64)
        if self.error:
            raise self.error
        return {
            "reconstruction": torch.zeros(N, 3, 64, 64),
            "control": torch.full((N, 3, 64, 64), -1.0),
            "conditioning": batch["txt"],
            f"samples_cfg_scale_{settings['unconditional_guidance_scale']:.2f}": drawn,
        }


class Trainer:
    is_global_zero = True
    callbacks = ()
    global_step = 300
    current_epoch = 2
    loggers = ()

    def __init__(self, folder):
        self.default_root_dir = str(folder)


BATCH = {"txt": ["a circle", "a star", "a square", "a heart", "a cross"], INDEX: torch.arange(5)}


def log(folder, step=300, error=None, batch=BATCH, **arguments):
    trainer, model = Trainer(folder), Model(error)
    trainer.global_step = step
    arguments = {"batch_frequency": 300, "log_images_kwargs": {"unconditional_guidance_scale": 9.0}, **arguments}
    ImageLogger(**arguments).on_train_batch_end(trainer, model, None, batch, 12)
    assert model.training
    assert not model.locked.training
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def test_files_have_the_names_that_users_look_for(tmp_path):
    where = "gs-000300_e-000002_b-000012.png"
    names = ["conditioning", "control", "reconstruction", "samples_cfg_scale_9.00"]
    assert log(tmp_path) == [f"image_log/train/{name}_{where}" for name in names]


@pytest.mark.parametrize(("step", "count"), [(1, 4), (2, 0), (299, 0), (600, 4)])
def test_logs_at_the_first_step_and_every_so_many(tmp_path, step, count):
    assert len(log(tmp_path, step)) == count


def test_a_step_of_several_batches_is_logged_once(tmp_path):
    trainer, model, logger = Trainer(tmp_path), Model(), ImageLogger(3)
    logger.log_images_kwargs = {"unconditional_guidance_scale": 9.0}
    logger.on_train_start(trainer, model)
    for batch, step in enumerate([300, 300, 301, 301, 302, 302, 303, 303]):
        trainer.global_step = step
        logger.on_train_batch_end(trainer, model, None, BATCH, batch)
    assert {path.name[-26:] for path in tmp_path.rglob("*.png")} == {"gs-000303_e-000002_b-000006.png"[-26:]}


def test_a_full_disk_is_told_and_survived(tmp_path):
    (tmp_path / "image_log").touch()  # where the folder is to be
    with pytest.warns(UserWarning, match=r"image log of step 300 is left out, since a file could not be written"):
        assert log(tmp_path) == []


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    assert log(tmp_path) == []


def test_random_numbers_of_the_run_are_not_moved(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    log(tmp_path)
    assert torch.equal(torch.rand(4), expected)


def test_values_are_mapped_to_full_range(tmp_path):
    log(tmp_path, max_images=1)
    control = np.array(Image.open(next(tmp_path.rglob("control_*"))))
    assert control[5:-5, 5:-5].max() == 0
    grey = np.array(Image.open(next(tmp_path.rglob("reconstruction_*"))))
    assert set(np.unique(grey[5:-5, 5:-5])) <= {127, 128}


def test_shown_are_the_first_samples_of_the_batch_and_no_more_than_it_has(tmp_path):
    log(tmp_path, max_images=3)
    assert Image.open(next(tmp_path.rglob("samples_*"))).size == (3 * 66 + 2, 68)
    log(tmp_path / "all", max_images=9)
    assert Image.open(next((tmp_path / "all").rglob("samples_*"))).size == (4 * 66 + 2, 2 * 66 + 2)


@pytest.mark.parametrize(("usual", "few"), [(4, 2), (2, 3)])
def test_a_given_number_counts_instead_of_the_usual_one(tmp_path, usual, few):
    given = {"unconditional_guidance_scale": 9.0, "N": few}
    log(tmp_path, max_images=usual, log_images_kwargs=given)
    assert Image.open(next(tmp_path.rglob("samples_*"))).size == (few * 66 + 2, 68)
    assert given["N"] == few, "what the caller gave stays as it is"


def test_values_that_have_no_part_for_each_sample_are_left_out(tmp_path):
    camera = {"name": ["a", "b", "c", "d", "e"]}
    size = [torch.full((5,), 64), torch.full((5,), 96)]  # as sizes (h, w) of five samples are collated
    log(tmp_path, batch={**BATCH, "camera": camera, "size": size, "scale": 0.5})
    assert Image.open(next(tmp_path.rglob("samples_*"))).size == (4 * 66 + 2, 68)


def test_the_model_gets_a_row_of_what_has_rows(tmp_path, monkeypatch):
    seen, given = [], Model.log_images

    def looked_at(self, batch, N, **settings):
        seen.append(batch)
        return given(self, batch, N, **settings)

    monkeypatch.setattr(Model, "log_images", looked_at)
    images = {"jpg": torch.rand(5, 8, 8, 3), "hint": torch.rand(5, 8, 8, 3), MOMENTS: torch.rand(5, 8, 1, 1)}
    log(
        tmp_path,
        batch={**BATCH, **images, "weight": torch.rand(5), "three": torch.rand(3), "negative": list("abcde")},
        max_images=2,
    )
    assert [set(batch) for batch in seen] == [{"jpg", "txt", "hint", INDEX, MOMENTS, "weight", "negative"}] * 2
    assert [batch["txt"] for batch in seen] == [["a circle"], ["a star"]]
    assert [batch[INDEX].tolist() for batch in seen] == [[0], [1]]
    assert torch.equal(seen[1]["hint"], images["hint"][1:2])


ALLOCATION = (
    "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), RuntimeError(ALLOCATION), MemoryError()],
)
def test_lack_of_memory_is_told_and_survived_and_nothing_of_the_run_is_moved(tmp_path, error):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match=r"The image log of step 300 is left out, since memory does not do"):
        assert log(tmp_path, error=error) == []
    assert torch.equal(torch.rand(4), expected)
    assert torch.is_grad_enabled()


def test_other_errors_are_not_hidden(tmp_path):
    with pytest.raises(RuntimeError, match="shapes do not match"):
        log(tmp_path, error=RuntimeError("shapes do not match"))


def test_a_long_prompt_is_wrapped_inside_its_image():
    drawn = text_image("light golden rod yellow circle with medium violet red background " * 2, 128, 128)
    rows = (drawn < 0).any(dim=0).any(dim=1)
    assert drawn.shape == (3, 128, 128)
    assert rows.sum() > 40
    assert (drawn[:, :, -1] > 0.9).all()


def test_texts_are_drawn_as_large_as_the_images():
    like = torch.zeros(2, 3, 64, 96)
    assert grid(["a", "b"], like).shape == grid(like, like).shape


def test_a_frequency_of_zero_is_refused():
    with pytest.raises(ValueError, match="batch_frequency must be at least 1, got 0"):
        ImageLogger(batch_frequency=0)


def test_it_is_a_lightning_callback():
    assert isinstance(ImageLogger(300), pl.Callback)
