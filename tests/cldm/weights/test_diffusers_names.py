"""Our names of a ControlNet's parts beside those of diffusers' own class."""

import pytest
import torch

import tiny
from cldm.weights.diffusers_names import diffusers_names
from parity import published_names

CONTROL = "control_model."


def published(version: str) -> dict[str, tuple[int, ...]]:
    names = published_names(f"control_{version}").items()
    return {name.removeprefix(CONTROL): shape for name, (_, shape) in names if name.startswith(CONTROL)}


@pytest.mark.parametrize("version", ["sd15", "sd21"])
def test_full_size_names_and_shapes_are_those_of_diffusers(version):
    from diffusers import ControlNetModel

    options = {"cross_attention_dim": 768, "attention_head_dim": 8}
    if version == "sd21":
        options = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
    with torch.device("meta"):
        theirs = {n: tuple(t.shape) for n, t in ControlNetModel(**options).state_dict().items()}
    ours = published(version)
    assert {theirs_name: ours[name] for name, theirs_name in diffusers_names(list(ours)).items()} == theirs


def test_a_smaller_controlnet_has_its_own_number_of_levels():
    names = diffusers_names(list(tiny.controlnet().state_dict()))
    assert names["input_blocks.2.0.op.weight"] == "down_blocks.0.downsamplers.0.conv.weight"
    assert names["input_blocks.3.0.skip_connection.bias"] == "down_blocks.1.resnets.0.conv_shortcut.bias"
    assert len(set(names.values())) == len(names)
