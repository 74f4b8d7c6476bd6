"""A new ControlNet: which tensors are copied, new and zero."""

import pytest
import torch

from checkpoints import CONTROL, POSITION_IDS, UNET, base_of, full_weights, tiny_config
from cldm.model import create_model
from cldm.weights.add_control import add_control
from cldm.weights.blueprint import Blueprint
from cldm.weights.expected import SCHEDULE
from ldm.deferred import HandedOver


@pytest.fixture
def base(weights) -> HandedOver:
    return base_of(weights)


def test_the_encoder_is_copied_and_the_rest_is_new(base, plan):
    added = add_control(base, plan)
    assert added.weights.keys() == plan.shapes.keys() | {POSITION_IDS}
    for name, tensor in base.items():
        assert torch.equal(added.weights[name], tensor)
    for name in plan.control:
        twin = name.replace(CONTROL, UNET)
        assert (name in added.control) == (twin in base)
        if twin in base:
            assert torch.equal(added.weights[name], base[twin])
    assert set(added.new) == set(plan.control) - set(added.control)
    assert set(added.copied) == set(base)
    assert list(added.missing) == [POSITION_IDS]
    assert list(added.left_out) == []


def test_zero_convolutions_are_exactly_zero_and_the_hint_encoder_is_not(base, plan):
    added = add_control(base, plan)
    last = f"{CONTROL}input_hint_block.14."
    for name in added.new:
        is_zero = not name.startswith(f"{CONTROL}input_hint_block.") or name.startswith(last)
        assert added.weights[name].any().item() != is_zero, name


def test_the_hint_encoder_is_initialised_as_convolutions_are(base, plan):
    weights = add_control(base, plan).weights
    kernel = weights[f"{CONTROL}input_hint_block.4.weight"]
    bound = kernel[0].numel() ** -0.5  # kaiming_uniform_(a=sqrt(5)): U(-1/sqrt(fan_in), 1/sqrt(fan_in))
    assert 0.98 * bound < kernel.abs().max() <= bound
    assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_the_seed_decides_and_the_callers_generator_is_left_alone(base, plan):
    name = f"{CONTROL}input_hint_block.0.weight"
    before = torch.random.get_rng_state()
    first, again, other = (add_control(base, plan, seed).weights[name] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_new_controlnet_changes_nothing(base, plan, config):
    model = create_model(config)
    model.load_state_dict(add_control(base, plan).weights)
    x, t, hint = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.rand(1, 3, 64, 64)
    cond = {"c_crossattn": [torch.randn(1, 7, 16)]}
    with torch.no_grad():
        plain = model.apply_model(x, t, {**cond, "c_concat": None})
        assert torch.equal(model.apply_model(x, t, {**cond, "c_concat": [hint]}), plain)


def test_what_the_file_lacks_comes_from_the_config_and_surplus_is_reported(base, plan):
    for name in ("logvar", "betas"):
        del base[name]
    base["first_stage_model.loss.logvar"] = torch.ones(1)
    base[POSITION_IDS] = torch.arange(77)[None]
    added = add_control(base, plan)
    assert set(added.missing) == {"logvar", "betas"} <= SCHEDULE
    assert torch.equal(added.weights["betas"], plan.schedule["betas"])
    assert list(added.left_out) == ["first_stage_model.loss.logvar"]
    assert POSITION_IDS in added.copied


def test_a_linear_transformers_projections_are_copied(tmp_path):
    config = tiny_config(tmp_path, "21")
    added = add_control(base_of(full_weights(config)), Blueprint.of(create_model(config), "c"))
    assert added.weights[f"{CONTROL}input_blocks.1.1.proj_in.weight"].ndim == 2


def test_what_has_no_effect_may_be_missing_and_is_zero_and_reported(penultimate):
    plan = Blueprint.of(create_model(penultimate), "c")
    base = base_of(full_weights(penultimate))
    whole = add_control(base, plan)
    for name in plan.without_effect:
        del base[name]
    added = add_control(base, plan)
    assert plan.without_effect
    assert set(added.missing) == plan.without_effect
    assert added.weights.keys() == whole.weights.keys() == plan.shapes.keys()
    assert not any(added.weights[name].any() for name in plan.without_effect)
    assert all(torch.equal(added.weights[n], t) for n, t in whole.weights.items() if n not in plan.without_effect)
    del base["cond_stage_model.model.transformer.resblocks.1.ln_1.bias"]
    with pytest.raises(ValueError, match=r"base is not what .*missing: cond_stage_model\.\S+\.1\.ln_1\.bias\. Check"):
        add_control(base, plan)


def test_bases_that_cannot_be_used_are_named(base, weights, plan, tmp_path):
    with pytest.raises(ValueError, match=r"full\.pth has a ControlNet already"):
        add_control(weights, plan)
    with pytest.raises(ValueError, match=r"of width 24.*tiny15_16\.yaml describes .*of width 16"):
        add_control(base_of(full_weights(tiny_config(tmp_path, context_dim=24))), plan)
    del base["first_stage_model.quant_conv.bias"]
    with pytest.raises(ValueError, match=r"base is not what .*missing: first_stage_model\.quant_conv\.bias"):
        add_control(base, plan)
