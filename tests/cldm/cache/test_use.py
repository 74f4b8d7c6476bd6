"""Training from a cache: the same losses as without, and no encoder in memory."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import default_collate

import tiny
from cldm.cache.use import use_cache
from cldm.data import Indexed
from cldm.fill50k import make_fill50k
from cldm.model import load_model
from tutorial_dataset import MyDataset

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
    assert set(from_cache) == {"moments", "hint", "txt", "index"}
    return plain.training_step(batch, 0).item(), model.training_step(from_cache, 0).item()


def test_losses_are_the_same_as_without(files):
    plain, model = load(files), load(files)
    dataset = cached(files, model)
    assert len(dataset) == COUNT
    dropped = model.draws_of({"index": torch.arange(COUNT)}).dropped(0.5)
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
