"""Whether a ControlNet's outputs are averaged, told by what belongs to its file."""

import json

import pytest
import torch

from cldm.weights.pooling import pooling_doubt, told_pooled
from cldm.weights.saving import save_weights

YAML = "model:\n  params:\n    control_stage_config: {target: cldm.cldm.ControlNet}\n"
POOLED = f"{YAML}    global_average_pooling: True\n"
WEIGHTS = {"a": torch.zeros(1)}


@pytest.mark.parametrize(
    ("text", "pooled"),
    [(POOLED, True), (YAML, False), ("model: {params: {use_ema: false}}", None), ("[1, 2]", None), ("", None)],
)
def test_a_yaml_of_the_same_name_says_so(tmp_path, text, pooled):
    file = save_weights(WEIGHTS, tmp_path / "control.v1.pth")
    assert told_pooled(file) is None
    (tmp_path / "control.v1.yaml").write_text(text)
    assert told_pooled(file) is pooled


@pytest.mark.parametrize("told", [{"global_pool_conditions": True}, {"global_pool_conditions": False}, {}])
def test_diffusers_config_says_so_for_its_folder_and_the_weights_in_it(tmp_path, told):
    file = save_weights(WEIGHTS, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel", **told}))
    assert told_pooled(tmp_path) is told_pooled(file) is told.get("global_pool_conditions", False)
    assert told_pooled(save_weights(WEIGHTS, tmp_path / "other.safetensors")) is None


@pytest.mark.parametrize("pooled", [True, False])
def test_the_header_of_a_trained_file_comes_first(tmp_path, pooled):
    config = {"params": {"control_stage_config": {}, "global_average_pooling": pooled}}
    file = save_weights(WEIGHTS, tmp_path / "control.safetensors", {"config": json.dumps(config)})
    (tmp_path / "control.yaml").write_text(YAML if pooled else POOLED)
    assert told_pooled(file) is pooled


def test_what_cannot_be_read_is_named(tmp_path):
    file = save_weights(WEIGHTS, tmp_path / "control.safetensors", {"config": "{"})
    (tmp_path / "control.yaml").write_text("model: [")
    with pytest.raises(ValueError, match=r"cannot read .*control\.yaml, which says how the weights beside it are used"):
        told_pooled(file)


def test_only_what_is_named_so_and_is_not_averaged_is_doubted(tmp_path):
    doubt = pooling_doubt(tmp_path / "control_v11e_sd15_shuffle.pth", pooled=False)
    assert doubt.endswith("global_average_pooling: true beside it as control_v11e_sd15_shuffle.yaml")
    assert pooling_doubt(tmp_path / "control_v11e_sd15_shuffle.pth", pooled=True) == ""
    assert pooling_doubt(tmp_path / "control_v11p_sd15_canny.pth", pooled=False) == ""
