"""Versions and names: told from shapes, and put into words."""

import pytest
import torch

from cldm.weights.expected import (
    POSITION_IDS,
    SCHEDULE,
    check_names,
    check_version,
    describe_version,
    detect_version,
    shapes_of,
    with_position_ids,
)
from parity import published_names


def published(version: str) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, (_, shape) in published_names(f"control_{version}").items()}


def part(version: str, prefix: str) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in published(version).items() if name.startswith(prefix)}


@pytest.mark.parametrize("version", ["sd15", "sd21"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "control_model."])
def test_the_version_is_told_from_the_whole_and_from_its_parts(version, prefix):
    assert detect_version(part(version, prefix)) == version


def test_other_models_have_other_versions():
    name = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    assert detect_version({name: (640, 2048)}) == "sdxl"
    assert detect_version({name: (640, 128)}) == detect_version({"conv1.weight": (3, 3)}) == "other"
    assert describe_version({name: (640, 128)}) == "another model (prompt tokens of width 128)"
    assert describe_version({}) == "no Stable Diffusion (nothing attends to a prompt)"


def test_a_version_that_is_not_the_configs_is_refused_with_the_config_to_use():
    check_version(published("sd15"), published("sd15"), "a", "b")
    with pytest.raises(
        ValueError,
        match=r"v2\.ckpt has weights of Stable Diffusion 2 \(prompt tokens of width 1024\), but cldm_v15\.yaml "
        r"describes Stable Diffusion 1 \(.* 768\); use models/cldm_v21\.yaml",
    ):
        check_version(published("sd21"), published("sd15"), "v2.ckpt", "cldm_v15.yaml")
    name = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    with pytest.raises(ValueError, match=r"2048\), but .*XL is not supported: give a Stable Diffusion 1 or 2 file$"):
        check_version({name: (640, 2048)}, published("sd15"), "xl.ckpt", "cldm_v15.yaml")
    with pytest.raises(ValueError, match=r"use models/cldm_v15\.yaml"):
        check_version(published("sd15"), published("sd21"), "v1.ckpt", "cldm_v21.yaml")


@pytest.mark.parametrize("version", ["sd15", "sd21"])
def test_published_names_pass_with_and_without_what_is_optional(version):
    given = published(version)
    expected = {name: shape for name, shape in given.items() if name != POSITION_IDS}
    check_names(given, expected, "file")
    check_names(expected, expected, "file")
    check_names({name: shape for name, shape in expected.items() if name not in SCHEDULE}, expected, "file")


def test_the_schedules_names_are_the_published_ones_without_a_dot():
    assert {name for name in published("sd15") if "." not in name} == SCHEDULE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("control_model.time_embed.0.bias"), r"missing: control_model\.time_embed\.0\.bias\."),
        (lambda s: s.update({"lora.up": (1,)}), r"unexpected: lora\.up\. Check that the file and the config"),
        (
            lambda s: s.update({"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)}),
            r"of another shape: .*input_blocks\.0\.0\.weight \(320, 9, 3, 3\) instead of \(320, 4, 3, 3\)",
        ),
        (
            lambda s: [s.pop(n) for n in list(s) if n.startswith("control_model.")],
            r"missing: .* \(340 of 1483\).*no ControlNet: .*--checkpoint BASE CONTROL.* train, .*tool_add_control\.py",
        ),
        (
            lambda s: [s.pop(n) for n in list(s) if not n.startswith("control_model.")],
            r"missing: .*lacks the Stable Diffusion that it belongs to: .*--checkpoint BASE CONTROL",
        ),
    ],
)
def test_what_is_wrong_is_counted_and_named(change, message):
    expected = published("sd15")
    del expected[POSITION_IDS]
    given = dict(expected)
    change(given)
    with pytest.raises(ValueError, match=rf"^x\.pth is not what the model expects: .*{message}"):
        check_names(given, expected, "x.pth")


def test_position_ids_are_added_where_they_belong_and_nowhere_else():
    embedding = POSITION_IDS.replace("position_ids", "position_embedding.weight")
    added = with_position_ids({embedding: torch.zeros(77, 8)})
    assert torch.equal(added[POSITION_IDS], torch.arange(77)[None])
    assert added[POSITION_IDS].dtype == torch.int64
    assert shapes_of(added)[POSITION_IDS] == published("sd15")[POSITION_IDS]
    assert with_position_ids({"x": torch.zeros(1)}).keys() == {"x"}
