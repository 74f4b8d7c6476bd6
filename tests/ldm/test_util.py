"""Objects from dotted paths and configs, and the choice of a device."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ldm.util import choose_device, get_obj_from_str, instantiate_from_config


def test_a_dotted_path_is_the_class_or_function_itself():
    assert get_obj_from_str("torch.nn.Identity") is nn.Identity
    assert get_obj_from_str("ldm.util.choose_device") is choose_device


@pytest.mark.parametrize("path", ["no_such_package.Thing", "ldm.util.no_such_name", "Identity", "", ".ldm.util.Thing"])
def test_a_path_to_nothing_is_named(path):
    with pytest.raises(ValueError, match=f"cannot find the target {path!r} of a config: .*; check its spelling"):
        get_obj_from_str(path)


def test_a_config_is_called_with_its_parameters_and_overrides_win():
    layer = instantiate_from_config(
        {"target": "torch.nn.Conv2d", "params": {"in_channels": 3, "out_channels": 5, "kernel_size": 3}}, out_channels=7
    )
    assert isinstance(layer, nn.Conv2d)
    assert (layer.in_channels, layer.out_channels, layer.kernel_size) == (3, 7, (3, 3))


@pytest.mark.parametrize("config", [{"target": "torch.nn.Identity"}, {"target": "torch.nn.Identity", "params": None}])
def test_parameters_may_be_left_out(config):
    assert isinstance(instantiate_from_config(config), nn.Identity)


def test_overrides_do_not_change_the_config():
    config = {"target": "torch.nn.Linear", "params": {"in_features": 2, "out_features": 3}}
    instantiate_from_config(config, bias=False)
    assert config["params"] == {"in_features": 2, "out_features": 3}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"params": {}}, r"expected a config with the key 'target', got the keys \['params'\]"),
        ({"target": "torch.nn"}, r"expected a target that is a class or function, got 'torch.nn', a module"),
        (
            {"target": "torch.nn.ReLU", "params": {"width": 3}},
            r"torch.nn.ReLU: got an unexpected keyword argument 'width'; its parameters are \(inplace",
        ),
        ({"target": "torch.nn.Linear"}, r"torch.nn.Linear: missing a required argument: 'in_features'"),
    ],
)
def test_what_cannot_be_built_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        instantiate_from_config(config)


def test_an_error_inside_the_target_is_not_mistaken_for_a_wrong_config():
    with pytest.raises(TypeError, match="can't convert type 'str'"):
        instantiate_from_config({"target": "statistics.mean", "params": {"data": "ab"}})


def test_auto_is_the_accelerator_where_there_is_one(monkeypatch):
    there = {"device": None}
    monkeypatch.setattr(
        torch, "accelerator", SimpleNamespace(current_accelerator=lambda check_available: there["device"])
    )
    assert choose_device() == torch.device("cpu")
    there["device"] = torch.device("cuda")
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")


def test_a_device_is_taken_as_it_is():
    assert choose_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cpu:x", ""])
def test_what_is_no_device_is_named(name):
    with pytest.raises(ValueError, match=rf"device '{name}' cannot be used here: .*use auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


def test_a_device_that_this_machine_lacks_is_named():
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ValueError, match=f"device '{absent}' cannot be used here"):
        choose_device(absent)
