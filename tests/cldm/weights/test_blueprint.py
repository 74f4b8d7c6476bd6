"""What a config expects of weights, and what may be missing."""

import pytest
import torch

from checkpoints import CONTROL, base_of, full_weights
from cldm.model import create_model
from cldm.weights.blueprint import Blueprint
from ldm.deferred import HandedOver, is_deferred

UNUSED = ("model.transformer.resblocks.2.", "model.text_projection", "model.logit_scale")


def test_base_and_control_are_everything_between_them(plan):
    assert {**plan.base, **plan.control} == plan.shapes
    assert all(name.startswith(CONTROL) for name in plan.control)
    assert not any(name.startswith(CONTROL) for name in plan.base)


def test_what_the_configured_layer_does_not_use_has_no_effect(plan, penultimate):
    model = create_model(penultimate)
    names = Blueprint.of(model, "c").without_effect
    assert is_deferred(model), "the model needs no values to tell"
    assert names == {
        n for n in Blueprint.of(model, "c").shapes if n.removeprefix("cond_stage_model.").startswith(UNUSED)
    }
    assert len(names) == 14
    assert plan.without_effect == frozenset(), "all of CLIP's text model is used"


def test_weights_are_completed_with_zeros_where_they_have_no_effect(penultimate):
    plan = Blueprint.of(create_model(penultimate), "c")
    weights = full_weights(penultimate)
    used = HandedOver({name: t for name, t in weights.items() if name not in plan.without_effect}, "used.ckpt")
    completed = plan.completed(used)
    assert completed.keys() == weights.keys()
    assert completed.source == "used.ckpt"
    for name, tensor in completed.items():
        assert torch.equal(tensor, torch.zeros(plan.shapes[name]) if name in plan.without_effect else weights[name])


def test_complete_weights_and_other_gaps_are_left_as_they_are(penultimate):
    plan = Blueprint.of(create_model(penultimate), "c")
    weights = full_weights(penultimate)
    assert plan.completed(weights) is weights
    half = base_of(weights)
    del half["cond_stage_model.model.transformer.resblocks.1.ln_1.weight"]
    assert plan.completed(half) is half


@torch.no_grad()
def test_a_completed_encoder_says_the_same_and_its_last_layer_hands_on_what_it_is_given(penultimate):
    plan = Blueprint.of(create_model(penultimate), "c")
    weights = full_weights(penultimate)
    used = HandedOver({name: t for name, t in weights.items() if name not in plan.without_effect}, "used.ckpt")
    whole, completed = create_model(penultimate), create_model(penultimate)
    whole.load_state_dict(weights)
    completed.load_state_dict(plan.completed(used))
    prompts = ["a red circle", ""]
    expected = whole.get_learned_conditioning(prompts)
    assert torch.equal(completed.get_learned_conditioning(prompts), expected)
    torch.testing.assert_close(completed.get_learned_conditioning(prompts, clip_skip=1), expected)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(whole.get_learned_conditioning(prompts, clip_skip=1), expected)
