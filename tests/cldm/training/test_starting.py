"""The weights that a run starts from: one file, two of any shape, or a base alone."""

from dataclasses import replace

import pytest
import torch

from cldm.model import create_model
from cldm.training import require
from cldm.training.starting import Start
from cldm.weights.add_control import add_control
from cldm.weights.blueprint import Blueprint
from cldm.weights.layouts import CONTROL
from cldm.weights.reading import read_weights
from cldm.weights.saving import save_weights


@pytest.fixture(scope="module")
def parts(tiny_settings, tmp_path_factory):
    """A base and a changed ControlNet, in files of their own."""
    folder = tmp_path_factory.mktemp("parts")
    whole = read_weights(tiny_settings.resume_path)
    base = save_weights({n: t for n, t in whole.items() if not n.startswith(CONTROL)}, folder / "base.safetensors")
    control = {n.removeprefix(CONTROL): t + 1 for n, t in whole.items() if n.startswith(CONTROL)}
    return base, save_weights(control, folder / "control.pth")


def test_one_file_with_everything(tiny_settings):
    model = require(tiny_settings, "").model()
    expected = read_weights(tiny_settings.resume_path)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert not model.training


def test_a_base_and_a_control_of_another_shape(tiny_settings, parts):
    base, control = parts
    weights = require(replace(tiny_settings, base=str(base), control=str(control)), "").weights()
    whole = read_weights(tiny_settings.resume_path)
    assert all(torch.equal(t, whole[n] + 1 if n.startswith(CONTROL) else whole[n]) for n, t in weights.items())


def test_a_control_in_the_place_of_the_file_s_own(tiny_settings, parts):
    weights = require(replace(tiny_settings, control=str(parts[1])), "").weights()
    name = f"{CONTROL}zero_convs.0.0.weight"
    assert torch.equal(weights[name], read_weights(tiny_settings.resume_path)[name] + 1)


def test_a_base_alone_gets_a_fresh_control(tiny_settings, parts):
    settings = replace(tiny_settings, base=str(parts[0]), seed=3)
    weights = require(settings, "").weights()
    blueprint = Blueprint.of(create_model(settings.config), settings.config)
    expected = add_control(read_weights(parts[0]), blueprint, seed=3).weights
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())
    assert not weights[f"{CONTROL}zero_convs.0.0.weight"].any()


def test_training_a_fresh_control_leaves_its_base_as_it_is(tiny_settings, parts):
    model = require(replace(tiny_settings, base=str(parts[0])), "").model()
    with torch.no_grad():
        for weight in model.control_model.parameters():
            weight.add_(1)
    expected, tensors = read_weights(parts[0]), model.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_without_base_a_file_without_control_is_refused(tiny_settings, parts):
    with pytest.raises(ValueError, match=r"has no ControlNet.*tool_add_control"):
        Start(tiny_settings.config, (parts[0],)).weights()


def test_what_is_missing_is_told(tiny_settings):
    with pytest.raises(FileNotFoundError) as error:
        require(replace(tiny_settings, base="./no_base.ckpt", control="./no_control.pth"), "")
    assert "base ./no_base.ckpt: put a Stable Diffusion there" in str(error.value)
    assert "control ./no_control.pth: name a ControlNet's file" in str(error.value)
