"""Training from a cache: the same losses as without, and no encoder in memory; readers that die or hang meanwhile."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

import tiny
from cldm.cache.use import use_cache
from cldm.data import DataError, Indexed
from cldm.data.watch import WorkerFailure
from cldm.fill50k import make_fill50k
from cldm.model import load_model
from ldm.models.diffusion.ddpm import MOMENTS
from ldm.models.diffusion.draws import INDEX
from tutorial_dataset import MyDataset, load_item

COUNT = 6


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("cache")
    return *tiny.write_model(folder), make_fill50k(folder / "data", COUNT, 64, workers=1).parent


def load(files):
    config, weights, _ = files
    model = load_model(config, weights, device="cpu")
    model.prompt_dropout, model.seed = 0.5, 3
    model.log = lambda *_, **__: None
    return model


def cached(files, model, folder: Path | bool = True):
    config, _, data = files
    return use_cache(model, MyDataset(data), folder, config, lambda: load(files), device="cpu")


def losses(files, plain, model, dataset, indices: list[int]) -> tuple[float, float]:
    """Of a step without a cache and of one with it."""
    batch, from_cache = (
        default_collate([Indexed(data)[index] for index in indices]) for data in (MyDataset(files[2]), dataset)
    )
    assert set(from_cache) == {MOMENTS, "hint", "txt", INDEX}
    return plain.training_step(batch, 0).item(), model.training_step(from_cache, 0).item()


def test_losses_are_the_same_as_without(files):
    plain, model = load(files), load(files)
    dataset = cached(files, model)
    assert len(dataset) == COUNT
    dropped = model.draws_of({INDEX: torch.arange(COUNT)}).dropped(0.5)
    assert 0 < dropped.sum() < COUNT, "prompts of both kinds are compared"
    for index in range(COUNT):
        loss, again = losses(files, plain, model, dataset, [index])
        assert again == loss > 0
    loss, again = losses(files, plain, model, dataset, [4, 1, 2])
    assert again == pytest.approx(loss, rel=1e-5)  # encoding three at once rounds otherwise


def test_neither_encoder_stays_in_the_model_and_images_are_still_logged(files):
    model = load(files)
    dataset = cached(files, model)
    held = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert held == {"model", "control_model"}
    batch = default_collate([Indexed(dataset)[index] for index in (0, 1)])
    images = model.log_images(batch, N=1, ddim_steps=1)
    assert images["reconstruction"].shape == (1, 3, 64, 64)
    assert images["conditioning"] == [dataset[0]["txt"]]


def test_a_cache_is_filled_once_and_what_is_missing_again(files, tmp_path, monkeypatch):
    cached(files, load(files), tmp_path)
    (folder,) = tmp_path.iterdir()
    assert {file.name for file in folder.iterdir()} == {
        "about.json",
        "latents-00000.safetensors",
        "texts-00000.safetensors",
    }
    model = load(files)
    monkeypatch.setattr(model.first_stage_model, "encode", lambda _: pytest.fail("encoded again"))
    monkeypatch.setattr(model.cond_stage_model, "forward", lambda _: pytest.fail("encoded again"))
    cached(files, model, tmp_path)
    texts = folder / "texts-00000.safetensors"
    before = texts.read_bytes()
    texts.unlink()
    cached(files, load(files), tmp_path)
    assert texts.read_bytes() == before


def test_images_are_not_decoded_once_they_are_in_the_cache(files, tmp_path, monkeypatch):
    cached(files, load(files), tmp_path)
    expected = [MyDataset(files[2])[index]["hint"] for index in range(COUNT)]
    dataset = cached(files, load(files), tmp_path)
    monkeypatch.setattr("cldm.data.pairs.read_image", lambda file: pytest.fail(f"{file} was decoded"))
    assert all(np.array_equal(dataset[index]["hint"], hint) for index, hint in enumerate(expected))


def test_a_dataset_that_makes_something_of_its_images_keeps_them(files, tmp_path):
    class Bright(MyDataset):
        def __getitem__(self, index: int) -> dict:
            item = super().__getitem__(index)
            return {**item, "hint": item["hint"] * item["jpg"].mean()}

    class Marked(MyDataset):
        def __getitem__(self, index: int) -> dict:
            item = super().__getitem__(index)
            return {**item, "txt": item["txt"] + (" bright" if "jpg" in item else "")}

    for kind in (Bright, Marked):
        dataset = kind(files[2])
        found = use_cache(load(files), dataset, tmp_path, files[0], lambda: load(files), "cpu")[0]
        assert np.array_equal(found["hint"], dataset[0]["hint"])
        assert found["txt"] == dataset[0]["txt"]


def test_images_of_ones_own_are_not_taken_for_the_switch(files, tmp_path):
    class Own(MyDataset):
        def __init__(self, path: Path):
            super().__init__(path)
            self.images = [row.target for row in self.rows]

        def __getitem__(self, index: int) -> dict:
            assert self.images[index].is_file()
            return load_item(self.rows[index])

    found = use_cache(load(files), Own(files[2]), tmp_path, files[0], lambda: load(files), "cpu")
    assert set(found[1]) == {MOMENTS, "hint", "txt"}


def test_the_process_generator_is_not_moved(files, tmp_path):
    model = load(files)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    cached(files, model, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_a_dataset_without_rows_is_refused(files):
    with pytest.raises(ValueError, match=r"dataset with rows.*cache=false"):
        use_cache(load(files), [{}], True, files[0], lambda: load(files))


class Trap(MyDataset):
    """A dataset whose item 2, which is no probe of the key, ends or stops the process that reads it."""

    def __init__(self, path: Path, fall: Callable[[], None]):
        super().__init__(path)
        self.fall = fall

    def __getitem__(self, index: int) -> dict:
        if index == 2:
            self.fall()
        return super().__getitem__(index)


def fill(files, dataset: MyDataset, folder: Path, num_workers: int = 1, timeout: float = 60) -> None:
    use_cache(load(files), dataset, folder, files[0], lambda: load(files), "cpu", num_workers, timeout)


def test_a_reader_that_is_killed_is_an_error_that_names_the_row(files, tmp_path):
    trap = Trap(files[2], lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(WorkerFailure, match=r"ended \(.*\) while it read \S+prompt.json, line 3 .*fewer num_workers"):
        fill(files, trap, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert not list(folder.glob("latents-*")), "what is not whole is made anew"


def test_a_reader_that_hangs_is_an_error_that_names_the_row_and_it_is_ended(files, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)  # seconds that torch waits for ends
    message = r"no data came for 2 seconds.* at \S+prompt.json, line 3 .*higher worker_timeout"
    with pytest.raises(WorkerFailure, match=message):
        fill(files, Trap(files[2], lambda: time.sleep(60)), tmp_path, timeout=2)
    assert not active_children()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_is_one_message_and_once_mended_the_cache_is_filled(files, tmp_path, num_workers):
    data = shutil.copytree(files[2], tmp_path / "data", ignore=shutil.ignore_patterns("cache"))
    image = data / "target/2.png"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"^\S+prompt.json, line 3: ") as refused:
        fill(files, MyDataset(data), tmp_path / "cache", num_workers)
    assert "Traceback" not in str(refused.value)
    image.write_bytes(whole)
    fill(files, MyDataset(data), tmp_path / "cache", num_workers)
    assert len(list((tmp_path / "cache").glob("*/latents-*"))) == 1
