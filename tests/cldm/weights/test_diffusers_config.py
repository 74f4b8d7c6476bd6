"""Our configs in diffusers' words: the network that diffusers makes of them has the published shapes."""

from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel

from cldm.model import read_config
from cldm.weights.diffusers_config import diffusers_config
from cldm.weights.diffusers_names import diffusers_names
from parity import published_names

MODELS = Path(__file__).parents[3] / "models"
CONTROL = "control_model."
SMALLEST = {"in_channels": 4, "hint_channels": 1, "model_channels": 32, "num_res_blocks": 1, "context_dim": 8}
SMALLEST |= {"attention_resolutions": [2], "num_heads": 4}


def params(config: str) -> dict:
    return read_config(MODELS / config)["params"]["control_stage_config"]["params"]


@pytest.mark.parametrize(("version", "config"), [("sd15", "cldm_v15.yaml"), ("sd21", "cldm_v21.yaml")])
def test_full_size_configs_make_networks_of_the_published_shapes(version, config):
    published = {
        n.removeprefix(CONTROL): s for n, (_, s) in published_names(f"control_{version}").items() if CONTROL in n
    }
    with torch.device("meta"):
        theirs = ControlNetModel.from_config(diffusers_config(params(config)))
    names = diffusers_names(list(published))
    assert {n: tuple(t.shape) for n, t in theirs.state_dict().items()} == {names[n]: s for n, s in published.items()}


def test_heads_are_given_by_their_number():
    assert diffusers_config(params("cldm_v15.yaml"))["attention_head_dim"] == 8
    assert diffusers_config(params("cldm_v21.yaml"))["attention_head_dim"] == [5, 10, 20, 20]
    both = {**params("cldm_v21.yaml"), "num_heads": 8}
    assert diffusers_config(both)["attention_head_dim"] == [5, 10, 20, 20]


def test_a_controlnet_that_says_the_same_everywhere_does_so_there():
    assert ControlNetModel.from_config(diffusers_config(SMALLEST, pooled=True)).config.global_pool_conditions
    assert "global_pool_conditions" not in diffusers_config(SMALLEST)


def test_what_a_yaml_leaves_out_is_our_networks_default():
    made = diffusers_config(SMALLEST)
    assert made["block_out_channels"] == [32, 64, 128, 256]
    assert made["down_block_types"] == ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"]
    assert (made["norm_num_groups"], made["transformer_layers_per_block"]) == (32, 1)
    assert (made["conditioning_channels"], made["use_linear_projection"], made["upcast_attention"]) == (1, False, False)


def test_stable_diffusion_2_attends_in_float32_unless_told_otherwise():
    assert diffusers_config({**SMALLEST, "use_linear_in_transformer": True})["upcast_attention"] is True
    told = {**SMALLEST, "use_linear_in_transformer": True, "upcast_attention": False}
    assert diffusers_config(told)["upcast_attention"] is False
