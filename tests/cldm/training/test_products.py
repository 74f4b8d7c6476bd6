"""What is saved for use: readers and tools take it, and its header says where it is from."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch

import tiny
from cldm.cache.key import weights_hash
from cldm.model import create_model, load_model, read_config
from cldm.training import require
from cldm.training.products import description, in_save_precision, trained_weights, tuned_base, whole_model
from cldm.training.settings import SAVE_PRECISIONS
from cldm.weights.blueprint import Blueprint
from cldm.weights.convert_command import convert_main
from cldm.weights.expected import POSITION_IDS, SCHEDULE
from cldm.weights.layouts import CONTROL
from cldm.weights.reading import read_weights
from cldm.weights.saving import read_metadata, save_weights
from cldm.weights.transfer_control import transfer_control


@pytest.fixture(scope="module")
def start(tiny_settings):
    return require(tiny_settings, "")


@pytest.fixture
def model(start):
    """Changed by training, decoder and all."""
    model = start.model()
    model.sd_locked = False
    with torch.no_grad():
        for parameter in model.trained_parameters():
            parameter += 0.25
    return model


@pytest.mark.parametrize("sd_locked", [True, False])
def test_what_was_trained_is_saved(sd_locked):
    model = tiny.control_ldm()
    model.sd_locked = sd_locked
    trained = {id(p) for p in model.trained_parameters()}
    expected = {name: p for name, p in model.named_parameters() if id(p) in trained}
    saved = trained_weights(model)
    assert set(saved) == set(expected)
    assert all(torch.equal(saved[name], expected[name]) for name in expected)


def test_a_whole_model_is_the_start_with_what_was_trained(start, model, tmp_path):
    file = save_weights(whole_model(model, start), tmp_path / "whole.safetensors")
    assert POSITION_IDS in read_weights(file)
    loaded = load_model(start.config, file, device="cpu").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("precision", SAVE_PRECISIONS)
def test_a_noise_schedule_and_whole_numbers_stay_as_they_are(precision):
    weights = {"betas": torch.ones(1), "ids": torch.arange(3), "control_model.a": torch.ones(1)}
    dtypes = {name: tensor.dtype for name, tensor in in_save_precision(weights, precision).items()}
    assert dtypes == {"betas": torch.float32, "ids": torch.int64, "control_model.a": getattr(torch, precision)}


def test_a_tuned_base_and_its_control_load_together(start, model, tmp_path):
    precision = "float16"
    files = [
        save_weights(in_save_precision(weights, precision), tmp_path / f"{name}.safetensors")
        for name, weights in (("base", tuned_base(model, start)), ("control", trained_weights(model)))
    ]
    assert not [name for name in read_weights(files[0]) if name.startswith(CONTROL)]
    loaded = load_model(start.config, *files, device="cpu").state_dict()
    dtype = getattr(torch, precision)
    expected = {n: t if n in SCHEDULE else t.to(dtype).float() for n, t in model.state_dict().items()}
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in expected.items())


def test_tools_take_a_saved_control(start, model, tmp_path):
    precision = "bfloat16"
    model.sd_locked = True
    file = save_weights(in_save_precision(trained_weights(model), precision), tmp_path / "control_000002.safetensors")
    base = str(start.files[0])
    given = ["--base", base, "--config", start.config]
    convert_main("", tmp_path, [str(file), str(tmp_path / "whole.safetensors"), "--to", "ldm", *given])
    whole = read_weights(tmp_path / "whole.safetensors")
    name = f"{CONTROL}middle_block_out.0.bias"
    assert torch.equal(
        whole[name].float(), model.control_model.middle_block_out[0].bias.to(getattr(torch, precision)).float()
    )
    blueprint = Blueprint.of(create_model(start.config), start.config)
    old = read_weights(base)
    moved = transfer_control(old, read_weights(file), old, blueprint).weights
    assert torch.equal(moved[name], read_weights(file)[name])


def test_the_header_says_where_it_is_from(start, tiny_settings):
    settings = replace(tiny_settings, batch_size=3, output="/home/me/run", resume="auto", validation="/home/me/judged")
    base = weights_hash(start.model().model.diffusion_model)
    told = description(settings, base, 500, 7, **{"val/fidelity": 0.5})
    assert told["step"] == "500"
    assert told["epoch"] == "7"
    assert told["val/fidelity"] == "0.5"
    assert len(told["base_unet_sha256"]) == len(hashlib.sha256().hexdigest())
    assert json.loads(told["config"]) == read_config(settings.config)
    said = json.loads(told["settings"])
    assert said["batch_size"] == 3
    assert said["dataset"] == "data"
    assert said["validation"] == "judged"
    assert {"output", "resume"}.isdisjoint(said)
    assert "/" not in told["settings"].replace("val/fidelity", "")
    assert all(isinstance(value, str) for value in told.values())


def test_of_shards_their_names_are_told_and_not_their_server(tiny_settings):
    where = "https://me:word@example.org/mine/shard-{00000..00099}.tar?token=a/b"
    said = json.loads(description(replace(tiny_settings, dataset=where), "0" * 64, 1, 0)["settings"])
    assert said["dataset"] == "shard-{00000..00099}.tar"
    assert said["validation"] == "held_out"


def test_the_header_is_in_the_file(start, tiny_settings, tmp_path):
    told = description(tiny_settings, "0" * 64, 1, 0)
    file = save_weights({"a": torch.zeros(1)}, tmp_path / "a.safetensors", told)
    assert read_metadata(file) == {"format": "pt", **told}
