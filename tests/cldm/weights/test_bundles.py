"""Weights and the files beside them: all or none, and nothing overwritten."""

import json
import os
from pathlib import Path

import pytest
import torch

from cldm.weights import bundles
from cldm.weights.bundles import CONFIG, WEIGHTS, check_file, check_folder, save_diffusers_folder, save_file_with
from cldm.weights.reading import read_weights

TENSORS = {"a": torch.arange(3.0)}


def test_texts_are_written_under_the_weights_name(tmp_path):
    file = tmp_path / "v1.0.pth"
    written = save_file_with(TENSORS, file, {".yaml": "model: 1\n", ".json": "{}"})
    assert written == [file, tmp_path / "v1.0.yaml", tmp_path / "v1.0.json"]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert (tmp_path / "v1.0.yaml").read_text() == "model: 1\n"
    assert torch.equal(read_weights(file)["a"], TENSORS["a"])


def test_a_folder_is_read_as_the_weights_in_it(tmp_path):
    written = save_diffusers_folder(TENSORS, {"b": [1]}, tmp_path / "out")
    assert written == [tmp_path / "out" / WEIGHTS, tmp_path / "out" / CONFIG]
    assert json.loads((tmp_path / "out" / CONFIG).read_text()) == {"b": [1]}
    assert torch.equal(read_weights(tmp_path / "out")["a"], TENSORS["a"])
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"])
def test_diffusers_other_names_of_weights_are_read_too(tmp_path, name):
    torch.save(TENSORS, tmp_path / name) if name.endswith("bin") else save_file_with(TENSORS, tmp_path / name, {})
    assert torch.equal(read_weights(tmp_path)["a"], TENSORS["a"])


def broken(weights, path):
    Path(path).touch()
    raise OSError("no space left on device")


def test_where_writing_fails_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "save_weights", broken)
    with pytest.raises(OSError, match="no space left"):
        save_diffusers_folder(TENSORS, {}, tmp_path / "out")
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(bundles, "save_weights", lambda weights, path: broken(weights, tmp_path / "other"))
    with pytest.raises(OSError, match="no space left"):
        save_file_with(TENSORS, tmp_path / "w.pth", {".yaml": "model: 1\n"})
    assert os.listdir(tmp_path) == ["other"]


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "save_weights", lambda weights, path: (tmp_path / "out").mkdir())
    with pytest.raises(FileExistsError, match="out exists and is not overwritten"):
        save_diffusers_folder(TENSORS, {}, tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == []


def test_every_file_of_a_bundle_is_asked_for_before(tmp_path):
    assert check_file(tmp_path / "w.pth", (".yaml",)) == tmp_path / "w.pth"
    (tmp_path / "w.yaml").write_text("precious")
    with pytest.raises(FileExistsError, match=r"w\.yaml exists and is not overwritten"):
        check_file(tmp_path / "w.pth", (".yaml",))
    with pytest.raises(FileExistsError, match=r"w\.yaml exists"):
        save_file_with(TENSORS, tmp_path / "w.pth", {".yaml": "other"})
    assert (tmp_path / "w.yaml").read_text() == "precious"
    assert os.listdir(tmp_path) == ["w.yaml"]


def test_a_dangling_link_is_something_too(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nothing")
    with pytest.raises(FileExistsError, match="out exists"):
        check_folder(tmp_path / "out")
