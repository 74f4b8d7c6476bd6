"""Every shape that ControlNets are published in, onto a base."""

import json

import pytest
import torch

from checkpoints import CONTROL, UNET, assert_same, base_of, blueprint, control_of, full_weights, tiny_config
from cldm.weights.diffusers_names import diffusers_names
from cldm.weights.merging import merge
from ldm.deferred import HandedOver


def unprefixed(control):
    return {name.removeprefix(CONTROL): tensor for name, tensor in control.items()}


def as_diffusers(control):
    names = diffusers_names(list(unprefixed(control)))
    return {names[name]: tensor for name, tensor in unprefixed(control).items()}


def as_linear(control):
    """Projections as matrices, as Stable Diffusion 2 has them."""
    return {n: t.flatten(1) if ".proj_" in n and n.endswith("weight") else t for n, t in control.items()}


def as_difference(control, base):
    twins = {name: base.get(name.replace(CONTROL, UNET)) for name in control}
    stored = {name: t if twins[name] is None else t - twins[name] for name, t in control.items()}
    return {**stored, "difference": torch.tensor([])}


SHAPES = {
    "prefixed": lambda control, base: control,
    "full": lambda control, base: {**{n: t + 1 for n, t in base.items()}, **control},
    "unprefixed": lambda control, base: unprefixed(control),
    "diffusers": lambda control, base: as_diffusers(control),
    "linear": lambda control, base: as_linear(control),
    "linear diffusers": lambda control, base: as_diffusers(as_linear(control)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_model(shape, weights, plan):
    base, control = base_of(weights), control_of(weights)
    given = HandedOver(SHAPES[shape](control, base), "c.pth")
    merged = merge(base, given, plan)
    assert_same(merged, weights)
    assert merged.source == "base with c.pth"


def decoder_of(base):
    return {name: t + 1 for name, t in base.items() if name.startswith((f"{UNET}output_blocks.", f"{UNET}out."))}


def test_a_decoder_that_was_trained_with_the_control_replaces_the_bases(weights, plan):
    base, control = base_of(weights), control_of(weights)
    merged = merge(base, HandedOver({**control, **decoder_of(base)}, "tuned.safetensors"), plan)
    assert_same(merged, {**weights, **decoder_of(base)})


@pytest.mark.parametrize("locked", [True, False])
def test_of_a_whole_file_the_decoder_is_taken_where_its_header_says_that_it_was_trained(locked, weights, plan):
    tuned = {**weights, **decoder_of(weights)}
    given = HandedOver(tuned, "model.safetensors", {"settings": json.dumps({"sd_locked": locked})})
    assert_same(merge(base_of(weights), given, plan), weights if locked else tuned)


def test_half_a_decoder_is_refused(weights, plan):
    base, control = base_of(weights), control_of(weights)
    half = {name: t for name, t in decoder_of(base).items() if ".out." not in name}
    with pytest.raises(ValueError, match=r"tuned.safetensors is not .*missing: model.diffusion_model.out"):
        merge(base, HandedOver({**control, **half}, "tuned.safetensors"), plan)


@pytest.mark.parametrize("shape", ["prefixed", "unprefixed", "diffusers"])
def test_differences_are_added_to_the_bases_encoder(shape, weights, plan):
    base, control = base_of(weights), control_of(weights)
    stored = as_difference(control, base)
    marker = stored.pop("difference")
    changed = [n for n in stored if not torch.equal(stored[n], control[n])]
    assert 0 < len(changed) < len(control), "the hint encoder and the zero convolutions have no twin"
    given = HandedOver({**SHAPES[shape](stored, base), "difference": marker}, "diff.safetensors")
    merged = merge(base, given, plan)
    assert merged.keys() == weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(merged[name], tensor, msg=name)


def test_half_precision_differences_are_added_in_float32(weights, plan):
    base, control = base_of(weights), control_of(weights)
    half = {name: tensor.half() for name, tensor in as_difference(control, base).items()}
    merged = merge(base, HandedOver(half, "half"), plan)
    name = f"{CONTROL}time_embed.0.weight"
    assert torch.equal(merged[name], half[name].float() + base[name.replace(CONTROL, UNET)])


def test_linear_projections_take_a_convolutions_weights(tmp_path):
    config = tiny_config(tmp_path, "21")
    weights = full_weights(config)
    name = f"{CONTROL}input_blocks.1.1.proj_in.weight"
    given = HandedOver(control_of(weights), "c")
    given[name] = given[name][:, :, None, None]
    assert_same(merge(base_of(weights), given, blueprint(config)), weights)


def test_one_file_with_everything_needs_no_second_and_a_second_replaces_its_controlnet(config, weights, plan):
    assert merge(weights, None, plan) is weights
    other = control_of(full_weights(config, seed=1))
    assert_same(merge(weights, other, plan), {**weights, **other})


def test_what_has_no_effect_may_be_missing_and_is_zero(penultimate):
    plan, weights = blueprint(penultimate), full_weights(penultimate)
    bare = HandedOver({name: t for name, t in weights.items() if name not in plan.without_effect}, "bare")
    expected = {name: torch.zeros_like(t) if name in plan.without_effect else t for name, t in weights.items()}
    assert len(bare) < len(weights)
    assert_same(merge(bare, None, plan), expected)
    assert_same(merge(base_of(bare), control_of(bare), plan), expected)
    del bare["cond_stage_model.model.ln_final.bias"]
    with pytest.raises(
        ValueError, match=r"bare is not what .*missing: cond_stage_model\.model\.ln_final\.bias\. Check"
    ):
        merge(bare, None, plan)


def test_a_schedule_is_not_needed(weights, plan):
    bare = HandedOver({name: t for name, t in weights.items() if "." in name}, "bare")
    assert_same(merge(bare, None, plan), bare)


def test_the_wrong_version_is_refused_for_base_and_control(weights, plan, tmp_path):
    other = full_weights(tiny_config(tmp_path, context_dim=24))
    for base, control in ((base_of(other), control_of(weights)), (base_of(weights), control_of(other))):
        with pytest.raises(ValueError, match=r"of width 24.*tiny15_16\.yaml describes .*of width 16"):
            merge(base, control, plan)


@pytest.mark.parametrize("shape", ["prefixed", "unprefixed", "diffusers"])
def test_missing_and_unexpected_names_of_a_controlnet_are_named_with_its_file(shape, weights, plan):
    base, control = base_of(weights), control_of(weights)
    given = HandedOver(SHAPES[shape](control, base), "c.pth")
    last = list(given)[-1]
    tensor = given.pop(last)
    with pytest.raises(ValueError, match=r"c\.pth is not what .*missing: control_model\."):
        merge(base, given, plan)
    given |= {last: tensor, "surplus.weight": tensor}
    with pytest.raises(ValueError, match=r"c\.pth is not what .*unexpected: .*surplus\.weight"):
        merge(base, given, plan)


SURPLUS = {name: torch.ones(1) for name in ("cond_stage_model.logit_scale", "embedding_manager.a", "x.b", "x.c")}


def test_what_a_merge_has_beside_a_stable_diffusion_is_left_out_and_said(weights, plan):
    left_out = r"left out of .*: cond_stage_model\.logit_scale, embedding_manager\.a, x\.b, \.\.\. \(4\)$"
    with pytest.warns(UserWarning, match=left_out):
        merged = merge(HandedOver({**base_of(weights), **SURPLUS}, "base"), control_of(weights), plan)
    assert_same(merged, weights)
    whole = HandedOver({**weights, **SURPLUS}, "whole")
    with pytest.warns(UserWarning, match=left_out):
        assert_same(merge(whole, None, plan), weights)
    assert_same(merge(base_of(weights), whole, plan), weights)


@pytest.mark.parametrize("surplus", [f"{UNET}label_emb.0.weight", f"{CONTROL}label_emb.0.weight"])
def test_surplus_of_the_networks_that_draw_is_refused(surplus, weights, plan):
    with pytest.raises(ValueError, match=rf"whole is not what .*unexpected: {surplus}"):
        merge(HandedOver({**weights, surplus: torch.ones(1)}, "whole"), None, plan)


def test_surplus_of_an_incomplete_file_is_named_with_what_is_missing(weights, plan):
    base = HandedOver({**base_of(weights), **SURPLUS}, "base")
    del base[f"{UNET}out.2.bias"]
    with pytest.raises(ValueError, match=r"missing: model\..*out\.2\.bias; unexpected: cond_stage_model\.logit_scale"):
        merge(base, control_of(weights), plan)


def test_what_is_no_controlnet_and_what_is_no_base_is_named(weights, plan):
    lora = HandedOver({"lora_unet.up.weight": torch.ones(1)}, "lora.safetensors")
    with pytest.raises(ValueError, match=r"lora\.safetensors has no known shape of ControlNet.*lora_unet\.up\.weight"):
        merge(base_of(weights), lora, plan)
    for name in ("lora_controlnet", "input_blocks.1.0.in_layers.2.up"):
        control_lora = HandedOver({**unprefixed(control_of(weights)), name: torch.ones(1)}, "lora128.safetensors")
        with pytest.raises(ValueError, match=r"lora128\.safetensors is a Control-LoRA, which is not supported"):
            merge(base_of(weights), control_lora, plan)
    with pytest.raises(ValueError, match=r"control is not what .*lacks the Stable Diffusion.*give that file before it"):
        merge(control_of(weights), base_of(weights), plan)
    with pytest.raises(ValueError, match=r"base is not what .*has no ControlNet"):
        merge(base_of(weights), None, plan)
