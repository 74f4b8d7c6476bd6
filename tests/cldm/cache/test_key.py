"""The key changes with all that a cache depends on, and with nothing else."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from cldm.cache.key import dependencies, items_hash, key_of, weights_hash
from cldm.fill50k import make_fill50k
from tutorial_dataset import MyDataset

CONFIG = {"params": tiny.ldm_params(cond_stage_config=tiny.CLIP)}


@pytest.fixture(scope="module")
def model():
    return tiny.control_ldm(cond_stage_config=tiny.CLIP)


@pytest.fixture
def folder(tmp_path):
    return make_fill50k(tmp_path / "data", 5, 64, workers=1).parent


def key(model, folder, config=CONFIG) -> str:
    return key_of(dependencies(model, config, MyDataset(folder)))


def test_it_stays_where_nothing_changes_and_where_the_dataset_moves(model, folder, tmp_path):
    before = key(model, folder)
    assert len(before) == 20
    assert key(model, folder) == before
    shutil.copytree(folder, tmp_path / "moved")  # with the times of change
    assert key(model, tmp_path / "moved") == before


def test_a_changed_prompt_image_or_number_of_rows_changes_it(model, folder):
    keys = {key(model, folder)}
    rows = (folder / "prompt.json").read_text().splitlines()
    (folder / "prompt.json").write_text("\n".join([rows[0].replace("background", "ground"), *rows[1:]]))
    keys.add(key(model, folder))
    (folder / "prompt.json").write_text("\n".join(rows[:4]))
    keys.add(key(model, folder))
    os.utime(folder / "target/1.png", ns=(1, 1))
    keys.add(key(model, folder))
    Image.new("RGB", (64, 64)).save(folder / "target/1.png")
    os.utime(folder / "target/1.png", ns=(1, 1))
    keys.add(key(model, folder))
    assert len(keys) == 5


def test_changed_encoders_change_it_and_the_rest_of_the_model_does_not(model, folder, monkeypatch):
    before = key(model, folder)
    for weight in (model.control_model.zero_convs[0][0].weight, model.first_stage_model.decoder.conv_in.weight):
        with torch.no_grad():
            weight.add_(1)
        assert key(model, folder) == before
    text = {**tiny.CLIP, "params": {**tiny.CLIP["params"], "layer": "penultimate"}}
    assert key(model, folder, {"params": tiny.ldm_params(cond_stage_config=text)}) != before
    for encoder in (model.first_stage_model.encoder, model.cond_stage_model):
        weight = next(encoder.parameters())
        with torch.no_grad():
            weight.view(-1)[0].add_(1)
            assert key(model, folder) != before
            weight.view(-1)[0].sub_(1)


def test_names_and_precisions_of_weights_count():
    layers = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).half(), torch.nn.Conv2d(1, 1, 1).bfloat16()]
    assert len({weights_hash(layer) for layer in layers}) == 3


def test_changed_code_of_the_dataset_changes_it():
    images = [np.full((64, 64, 3), k, np.float32) for k in range(9)]
    as_they_are, flipped = ([{"jpg": f(image)} for image in images] for f in (np.asarray, lambda x: 1 - x))
    assert items_hash(as_they_are, "jpg") != items_hash(flipped, "jpg")


def test_a_random_dataset_is_refused():
    class Random:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {"jpg": np.random.default_rng().random((8, 8, 3))}

    with pytest.raises(ValueError, match=r"item 0 is another image at each reading.*cache=false"):
        items_hash(Random(), "jpg")


def test_a_missing_image_is_named_by_its_row(model, folder):
    (folder / "target/3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"prompt.json, line 4: no image at \S+target/3.png"):
        dependencies(model, CONFIG, MyDataset(folder))


def test_images_may_lie_outside_the_datasets_folder(model, folder, tmp_path):
    rows = [json.loads(line) for line in (folder / "prompt.json").read_text().splitlines()]
    shutil.move(folder / "target", tmp_path / "elsewhere")
    for row in rows:
        row["target"] = str(tmp_path / "elsewhere" / Path(row["target"]).name)
    (folder / "prompt.json").write_text("\n".join(map(json.dumps, rows)))
    before = key(model, folder)
    assert key(model, folder) == before
    os.utime(tmp_path / "elsewhere/1.png", ns=(1, 1))
    assert key(model, folder) != before
