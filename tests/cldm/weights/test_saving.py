"""Whole files or none, in the format that the name says."""

import os
import resource

import pytest
import torch

from cldm.weights import saving
from cldm.weights.reading import read_weights
from cldm.weights.saving import check_output, read_metadata, save_weights


def tensors() -> dict[str, torch.Tensor]:
    shared = torch.arange(12.0).reshape(3, 4)
    return {"a": shared, "twin": shared, "row": shared[1], "transposed": shared.T, "half": shared.half()}


@pytest.mark.parametrize("name", ["w.safetensors", "w.ckpt", "w.pth", "w.pt"])
def test_what_is_saved_is_read_again(tmp_path, name):
    assert save_weights(tensors(), tmp_path / name) == tmp_path / name
    read = read_weights(tmp_path / name)
    assert read.keys() == tensors().keys()
    assert all(torch.equal(read[n], t) for n, t in tensors().items())
    assert os.listdir(tmp_path) == [name]


def test_a_pickle_is_a_plain_dictionary_of_tensors_for_other_programs(tmp_path):
    save_weights(tensors(), tmp_path / "w.pth")
    content = torch.load(tmp_path / "w.pth", weights_only=True)
    assert type(content) is dict
    assert all(type(tensor) is torch.Tensor for tensor in content.values())
    assert content["a"].data_ptr() != content["twin"].data_ptr(), "else training one would change the other"


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_everybody_may_read_the_file_who_may_read_a_new_one(tmp_path, name):
    (tmp_path / "new").touch()
    save_weights(tensors(), tmp_path / name)
    assert (tmp_path / name).stat().st_mode == (tmp_path / "new").stat().st_mode


def test_bare_names_go_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_weights(tensors(), "w.safetensors")
    assert (tmp_path / "w.safetensors").is_file()


def test_a_folder_that_nothing_may_be_written_to_is_named_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr(saving.os, "access", lambda folder, mode: folder != tmp_path or not mode & os.W_OK)
    with pytest.raises(PermissionError, match=rf"no permission to make w\.pth in {tmp_path}; give another folder"):
        check_output(tmp_path / "w.pth")


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "w.pth"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match=r"w\.pth exists and is not overwritten; give another name"):
        save_weights(tensors(), path)
    assert path.read_text() == "precious"


def test_a_file_that_appears_meanwhile_is_not_overwritten_either(tmp_path, monkeypatch):
    path = tmp_path / "w.pth"
    monkeypatch.setattr(saving.torch, "save", lambda *_: path.write_text("precious"))
    with pytest.raises(FileExistsError):
        save_weights(tensors(), path)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["w.pth"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(tensors, path, metadata):
        path.write_text("half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(saving, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        save_weights(tensors(), tmp_path / "w.safetensors")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("w.bin", ValueError, r"ends in \.safetensors, \.ckpt, \.pth or \.pt"),
        ("w", ValueError, "ends in"),
        ("nowhere/w.pth", FileNotFoundError, r"no folder .*nowhere to make w\.pth in; make it first"),
    ],
)
def test_other_names_are_refused(tmp_path, name, error, message):
    with pytest.raises(error, match=message):
        check_output(tmp_path / name)


def test_the_same_weights_and_metadata_give_the_same_bytes(tmp_path):
    told = {"settings": '{"ü": 1}', "step": "5", "base": "a", "config": "b"}
    files = [save_weights(tensors(), tmp_path / f"{i}.safetensors", dict(reversed(told.items()))) for i in range(4)]
    assert len({file.read_bytes() for file in files}) == 1
    assert read_metadata(files[0]) == {"format": "pt", **told}
    pickles = [save_weights(tensors(), tmp_path / f"{i}.ckpt") for i in range(2)]
    assert pickles[0].read_bytes() == pickles[1].read_bytes()


def test_metadata_of_something_else_is_a_message(tmp_path):
    (tmp_path / "a.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="cannot read the header"):
        read_metadata(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_what_may_be_replaced_is_replaced_by_a_whole_file_only(tmp_path, name):
    path = save_weights({"a": torch.zeros(3)}, tmp_path / name)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # as where a disk is full
    try:
        with pytest.raises(OSError, match="cannot write"):
            save_weights({"a": torch.zeros(100_000)}, path, replace=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.equal(read_weights(path)["a"], torch.zeros(3))
    assert os.listdir(tmp_path) == [name]
    save_weights({"a": torch.ones(3)}, path, replace=True)
    assert torch.equal(read_weights(path)["a"], torch.ones(3))
