"""Objects from dotted paths and configs, and the choice of a device."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ldm.util import called, check_neutral, choose_device, get_obj_from_str, instantiate_from_config, parameter_names


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


class Encoder(nn.Module):
    def __init__(self, *, channels: int, depth: int = 1, **neutral):
        super().__init__()


class Network(Encoder):
    def __init__(self, *, hint_channels: int, **encoder):
        super().__init__(**encoder)


def test_parameters_of_a_class_are_those_of_its_bases_too():
    assert parameter_names(Network) == ["hint_channels", "channels", "depth"]


def test_what_a_base_lacks_is_named():
    message = "Network: missing channels; its parameters are hint_channels, channels, depth, got hint_channels, chanels"
    with pytest.raises(ValueError, match=message):
        called(Network, {"hint_channels": 3, "chanels": 4}, "Network")


class Fixed(Encoder):
    def __init__(self, **others):
        super().__init__(channels=4, **others)


def test_what_a_class_gives_its_base_itself_is_not_missing():
    assert isinstance(called(Fixed, {"depth": 2}, "Fixed"), Encoder)


NEUTRAL = {"bends": (False, None), "dims": (2,)}


def test_parameters_that_ask_for_nothing_are_let_pass():
    check_neutral("Network", {"bends": False, "dims": 2}, NEUTRAL, ["depth"])
    check_neutral("Network", {"bends": None}, NEUTRAL, ["depth"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bends": True}, "^Network: bends must be false or null, as it is built here, got true$"),
        ({"dims": 3}, "^Network: dims must be 2, as it is built here, got 3$"),
        ({"dephts": 3}, "^Network has no parameter dephts, got 3 for it; is depth meant\\?$"),
        ({"x": [1]}, r"^Network has no parameter x, got \[1\] for it; its parameters are depth, bends, dims$"),
    ],
)
def test_parameters_that_ask_for_something_and_unknown_ones_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        check_neutral("Network", given, NEUTRAL, ["depth"])


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
