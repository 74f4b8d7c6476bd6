"""Every format in, no code run, and each bad file named."""

import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cldm.weights import restricted_pickle
from cldm.weights.reading import own_storage, read_weights


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a.weight": torch.randn(64, 8), "a.bias": torch.randn(64).half(), "b": torch.arange(6)[None]}


def same(read, expected) -> bool:
    return read.keys() == expected.keys() and all(
        torch.equal(read[n], t) and read[n].dtype == t.dtype for n, t in expected.items()
    )


class ModelCheckpoint:
    """A callback class, as Lightning puts it into checkpoints."""

    def __init__(self) -> None:
        self.best = defaultdict(list, {"x": [1, 2]})


class Touch:
    """What a malicious file has inside: unpickled as usual, it makes a file."""

    def __init__(self, path: Path):
        self.command = f"touch {path}"

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pth", ".pt"])
def test_every_format_gives_the_same_tensors(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tensors(), path)
    read = read_weights(path)
    assert same(read, tensors())
    assert read.source == str(path)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("legacy", [False, True])
def test_lightnings_checkpoints_are_unwrapped_whatever_classes_they_hold(tmp_path, protocol, legacy):
    path = tmp_path / "v1-5-pruned.ckpt"
    content = {
        "state_dict": OrderedDict(tensors()),
        "global_step": 840000,
        "callbacks": {ModelCheckpoint: {"best_model_score": torch.ones(1)}, "another": ModelCheckpoint()},
        "hyper_parameters": {"path": Path("x"), "set": {1, 2}},
    }
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    assert same(read_weights(path), tensors())


def test_parameters_and_their_attributes_are_plain_tensors(tmp_path):
    path = tmp_path / "weights.pth"
    parameter = nn.Parameter(tensors()["a.weight"])
    parameter.note = "x"
    tagged = tensors()["a.bias"]
    tagged.note = "y"
    torch.save({"p": parameter, "t": tagged}, path)
    read = read_weights(path)
    assert same(read, {"p": tensors()["a.weight"], "t": tensors()["a.bias"]})
    assert not read["p"].requires_grad
    assert type(read["p"]) is torch.Tensor


@pytest.mark.parametrize("legacy", [False, True])
def test_types_that_torch_stores_as_bytes_are_read(tmp_path, legacy):
    types = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64)
    given = {str(dtype): torch.arange(12.0).reshape(3, 4).to(dtype).T for dtype in types}
    path = tmp_path / "small.pth"
    torch.save({**given, **tensors()}, path, _use_new_zipfile_serialization=not legacy)
    read = read_weights(path)
    assert {name: tensor.dtype for name, tensor in read.items() if name in given} == dict(
        zip(given, types, strict=True)
    )
    assert all(torch.equal(read[name].float(), tensor.float()) for name, tensor in given.items())
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors().items())


def test_text_encoders_get_the_part_of_their_names_that_some_files_lack(tmp_path):
    names = ["embeddings.token_embedding.weight", "encoder.layers.0.mlp.fc1.bias", "final_layer_norm.bias"]
    prefix = "cond_stage_model.transformer."
    save_file({prefix + name: torch.ones(2) for name in names} | tensors(), tmp_path / "nai.safetensors")
    read = read_weights(tmp_path / "nai.safetensors")
    assert read.keys() == {f"{prefix}text_model.{name}" for name in names} | tensors().keys()
    save_file({prefix + n: torch.ones(2) for n in (names[0], f"text_model.{names[0]}")}, tmp_path / "both.safetensors")
    assert read_weights(tmp_path / "both.safetensors").keys() == {prefix + names[0], f"{prefix}text_model.{names[0]}"}


def test_the_format_is_told_from_the_content(tmp_path):
    save_file(tensors(), tmp_path / "named.ckpt")
    torch.save(tensors(), tmp_path / "named.safetensors.pth")
    (tmp_path / "named.safetensors.pth").rename(tmp_path / "named.safetensors")
    assert same(read_weights(tmp_path / "named.ckpt"), tensors())
    assert same(read_weights(tmp_path / "named.safetensors"), tensors())


def test_files_from_before_the_zip_format_are_read(tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"state_dict": tensors()}, path, _use_new_zipfile_serialization=False)
    assert same(read_weights(path), tensors())


def test_a_compressed_archive_is_read_though_it_cannot_be_mapped(tmp_path):
    torch.save(tensors(), tmp_path / "stored.pth")
    packed = zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "stored.pth") as stored, packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert same(read_weights(tmp_path / "packed.pth"), tensors())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_tensors_are_mapped_and_changing_them_leaves_the_file_alone(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tensors(), path)
    before = path.read_bytes()
    read = read_weights(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    read["a.weight"].zero_()
    assert path.read_bytes() == before
    assert same(read_weights(path), tensors())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_every_tensor_has_a_storage_of_its_own_size(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tensors(), path)
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in read_weights(path).values())


def test_tensors_that_share_memory_in_the_file_do_not_share_it_when_read(tmp_path):
    shared, whole = torch.ones(4), torch.arange(12.0).reshape(3, 4)
    torch.save({"a": shared, "b": shared, "row": whole[1], "column": whole[:, 1]}, tmp_path / "shared.pth")
    read = read_weights(tmp_path / "shared.pth")
    read["a"].zero_()
    assert read["b"].tolist() == [1.0] * 4
    assert read["row"].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert read["column"].tolist() == [1.0, 5.0, 9.0]
    assert read["column"].is_contiguous()
    assert read["row"].untyped_storage().nbytes() == 16


def test_own_storage_copies_only_when_it_must():
    seen: set[int] = set()
    tensor = torch.arange(12.0).reshape(3, 4)
    assert own_storage(tensor, seen) is tensor
    assert own_storage(tensor[1], seen).data_ptr() == tensor[1].data_ptr()
    assert own_storage(tensor, seen).data_ptr() != tensor.data_ptr()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_code_in_a_file_never_runs(tmp_path, legacy, wrapped):
    path, proof = tmp_path / "evil.ckpt", tmp_path / "proof"
    content = {"state_dict": tensors(), "callbacks": Touch(proof)} if wrapped else {**tensors(), "x": Touch(proof)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert same(read_weights(path), tensors())
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists(), "the file does hold code"


def test_a_bare_malicious_pickle_is_refused(tmp_path):
    path, proof = tmp_path / "evil.pth", tmp_path / "proof"
    path.write_bytes(pickle.dumps(Touch(proof)))
    with pytest.raises(ValueError, match=r"cannot read .*evil\.pth"):
        read_weights(path)
    assert not proof.exists()


def test_a_file_cannot_change_what_later_files_are_read_with(tmp_path):
    """A pickle may set attributes of whatever it can name; what it can name here has none to set."""
    code = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}U\x05emptyU\x01xs\x86b."  # BUILD with state for slots
    torch.save(tensors(), tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as good, zipfile.ZipFile(tmp_path / "evil.pth", "w") as evil:
        for name in good.namelist():
            evil.writestr(name, code if name.endswith("data.pkl") else good.read(name))
    with pytest.raises(ValueError, match=r"evil\.pth.*no attribute 'empty'"):
        read_weights(tmp_path / "evil.pth")
    assert same(read_weights(tmp_path / "good.pth"), tensors())


@pytest.mark.parametrize("known", restricted_pickle._KNOWN.values())
def test_nothing_that_a_file_can_name_has_attributes_to_set(known):
    with pytest.raises((AttributeError, TypeError)):
        known.dtype = None


def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "program.pt")
    with pytest.raises(ValueError, match=r"program\.pt.*TorchScript program, not weights"):
        read_weights(tmp_path / "program.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html><head>", "an HTML page: the page about a file was saved"),
        (b"\n <html lang='en'>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer.*git lfs pull"),
        (b"", "empty"),
        (b"hello there", "something else .*hello there"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, message):
    path = tmp_path / "control_sd15_canny.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"control_sd15_canny\.pth to be a checkpoint .*{message}"):
        read_weights(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".legacy"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named_with_its_size(tmp_path, suffix, share):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(tensors(), path)
    else:
        torch.save(tensors(), path, _use_new_zipfile_serialization=suffix == ".pth")
    content = path.read_bytes()[: int(share * path.stat().st_size)]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"weights\{suffix} \({len(content)} bytes\).*cut short.*fetch it again"):
        read_weights(path)


def test_other_zip_archives_and_dictionaries_without_tensors_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photo.txt", "x")
    with pytest.raises(ValueError, match=r"photos\.zip.*a zip archive, but not of weights"):
        read_weights(tmp_path / "photos.zip")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "log.pth")
    with pytest.raises(ValueError, match=r"log\.pth to hold tensors, but it has epoch, lr"):
        read_weights(tmp_path / "log.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth to hold a dictionary of tensors, but it holds list"):
        read_weights(tmp_path / "list.pth")


def test_a_missing_file_is_named_with_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"no file control\.pth: .*{tmp_path}"):
        read_weights("control.pth")
    with pytest.raises(FileNotFoundError, match="no file"):
        read_weights(tmp_path)


def unet_names() -> list[str]:
    return ["input_blocks.0.0.weight", "input_blocks.1.1.norm.bias", "time_embed.0.bias"]


def with_averages(scale: float = 2.0) -> dict[str, torch.Tensor]:
    plain = {f"model.diffusion_model.{name}": torch.full((2,), float(i)) for i, name in enumerate(unet_names())}
    averages = {
        f"model_ema.diffusion_model{name.replace('.', '')}": scale * plain[f"model.diffusion_model.{name}"]
        for name in unet_names()
    }
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(5)}
    return {**plain, "first_stage_model.x": torch.ones(1), **averages, **counters}


def test_averaged_weights_are_left_out_or_put_in_the_place_of_the_others(tmp_path):
    torch.save({"state_dict": with_averages()}, tmp_path / "full.ckpt")
    plain, averaged = read_weights(tmp_path / "full.ckpt"), read_weights(tmp_path / "full.ckpt", ema=True)
    assert (
        plain.keys()
        == averaged.keys()
        == {f"model.diffusion_model.{n}" for n in unet_names()} | {"first_stage_model.x"}
    )
    for i, name in enumerate(unet_names()):
        assert plain[f"model.diffusion_model.{name}"].tolist() == [i, i]
        assert averaged[f"model.diffusion_model.{name}"].tolist() == [2 * i, 2 * i]


def test_averaged_weights_that_are_not_there_are_named(tmp_path):
    content = with_averages()
    del content["model_ema.diffusion_modeltime_embed0bias"]
    torch.save(content, tmp_path / "part.ckpt")
    with pytest.raises(ValueError, match=r"part\.ckpt has averaged weights for 2 of the 3.*time_embed0bias"):
        read_weights(tmp_path / "part.ckpt", ema=True)
    torch.save(tensors(), tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match=r"none\.ckpt has no averaged weights .*leave out --ema \(ema=True"):
        read_weights(tmp_path / "none.ckpt", ema=True)


def test_a_noise_schedule_in_half_precision_is_left_out(tmp_path):
    schedule = {"alphas_cumprod": torch.ones(10).half(), "betas": torch.ones(10)}
    torch.save({**tensors(), **schedule, "difference": torch.ones(1).half()}, tmp_path / "half.pth")
    assert read_weights(tmp_path / "half.pth").keys() == tensors().keys() | {"betas", "difference"}
