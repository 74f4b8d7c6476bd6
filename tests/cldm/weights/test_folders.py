"""A diffusers model's folder stands for the file of weights in it."""

import re

import pytest

from cldm.weights.folders import telling_name, weights_file


def test_a_file_is_itself_even_if_it_is_missing(tmp_path, monkeypatch):
    (tmp_path / "a.pth").touch()
    assert weights_file(str(tmp_path / "a.pth")) == tmp_path / "a.pth"
    assert weights_file(tmp_path / "absent.pth") == tmp_path / "absent.pth"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights_file("~/a.pth") == tmp_path / "a.pth"


def test_of_a_folder_safetensors_in_full_precision_come_first(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no file of weights in the folder {re.escape(str(tmp_path))}"):
        weights_file(tmp_path)
    for name in (".fp16.bin", ".fp16.safetensors", ".bin", ".safetensors"):
        (tmp_path / f"diffusion_pytorch_model{name}").touch()
        assert weights_file(tmp_path) == tmp_path / f"diffusion_pytorch_model{name}"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model_index.json", "is a Stable Diffusion in diffusers' layout; give one that is a single file"),
        ("unet/diffusion_pytorch_model.safetensors", "is a Stable Diffusion in diffusers' layout"),
        ("diffusion_pytorch_model.safetensors.index.json", "in several files .*json.*join them with .*max_shard_size"),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", "in several files"),
    ],
)
def test_folders_that_cannot_be_read_are_told_apart(tmp_path, file, message):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(FileNotFoundError, match=f"{re.escape(str(tmp_path))} .*{message}"):
        weights_file(tmp_path)


def test_a_name_that_all_have_is_told_with_the_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "diffusion_pytorch_model.bin").touch()
    assert telling_name(tmp_path / "control.pth") == "control.pth"
    assert telling_name(weights_file(".")) == f"{tmp_path.name}/diffusion_pytorch_model.bin"
