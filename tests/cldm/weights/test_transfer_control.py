"""p + new - old, and what is exempt from it."""

import pytest
import torch

from checkpoints import CONTROL, POSITION_IDS, UNET, base_of, blueprint, control_of, full_weights
from cldm.weights.expected import SCHEDULE
from cldm.weights.transfer_control import transfer_control
from ldm.deferred import HandedOver


@pytest.fixture
def old(weights) -> HandedOver:
    return base_of(weights)


@pytest.fixture
def new(config) -> HandedOver:
    return base_of(full_weights(config, seed=1))


@pytest.fixture
def controlled(config) -> HandedOver:
    """A whole file whose U-Net differs from the old base's, as after training with `sd_locked` False."""
    return HandedOver(full_weights(config, seed=2), "controlled.pth")


def test_every_tensor_is_moved_copied_or_kept(old, controlled, new, plan):
    made = transfer_control(old, controlled, new, plan)
    counts = {"copied": 0, "moved": 0, "kept": 0}
    for name, tensor in made.weights.items():
        twin = name.replace(CONTROL, UNET)
        if name.startswith(("first_stage_model.", "cond_stage_model.")):
            how, expected = "copied", torch.arange(77)[None] if name == POSITION_IDS else new[name]
        elif twin in old and name not in SCHEDULE:
            how, expected = "moved", controlled[name] + new[twin] - old[twin]
        else:
            how, expected = "kept", controlled[name]
        counts[how] += 1
        torch.testing.assert_close(tensor, expected, msg=name)
    assert made.weights.keys() == plan.shapes.keys() | {POSITION_IDS}
    assert counts == {"copied": made.copied, "moved": made.moved, "kept": made.kept}


def test_nothing_is_lost_to_rounding_where_two_of_them_are_equal(old, controlled, new, plan):
    to_itself = transfer_control(old, controlled, old, plan).weights
    assert all(torch.equal(to_itself[n], t) for n, t in controlled.items() if n.startswith((CONTROL, UNET)))
    locked = HandedOver({**old, **control_of(controlled)}, "locked.pth")
    moved = transfer_control(old, locked, new, plan).weights
    assert all(torch.equal(moved[n], t) for n, t in new.items() if n.startswith(UNET))


def test_a_controlnet_alone_is_moved_like_the_whole_file(old, controlled, new, plan):
    control = control_of(controlled)
    alone = transfer_control(old, control, new, plan).weights
    whole = transfer_control(old, HandedOver({**old, **control}, "w"), new, plan).weights
    assert alone.keys() == whole.keys()
    assert all(torch.equal(alone[name], whole[name]) for name in whole)


def test_a_controlnet_with_its_tuned_decoder_is_moved_with_it(old, controlled, new, plan):
    decoder = (f"{UNET}output_blocks.", f"{UNET}out.")
    tuned = HandedOver({n: t for n, t in controlled.items() if n.startswith((CONTROL, *decoder))}, "tuned.safetensors")
    whole = HandedOver({**old, **tuned}, "whole.ckpt")
    made, expected = (transfer_control(old, given, new, plan).weights for given in (tuned, whole))
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in expected)
    assert not torch.equal(made[f"{UNET}out.2.weight"], new[f"{UNET}out.2.weight"])


def test_half_is_made_after_the_sum_and_leaves_the_schedule(old, controlled, new, plan):
    whole = transfer_control(old, controlled, new, plan).weights
    half = transfer_control(old, controlled, new, plan, half=True).weights
    for name, tensor in whole.items():
        kept = name in SCHEDULE or not tensor.is_floating_point()
        assert torch.equal(half[name], tensor if kept else tensor.half()), name


def test_half_precision_files_are_added_in_full(old, controlled, new, plan):
    halves = [HandedOver({n: t.half() for n, t in w.items()}, w.source) for w in (old, controlled, new)]
    made = transfer_control(*halves, plan).weights
    name = f"{UNET}time_embed.0.weight"
    p, b, a = (half[name].double() for half in (halves[1], halves[0], halves[2]))
    assert torch.equal(made[name], (p + a - b).half())


@pytest.mark.parametrize("lacking", ["old", "controlled", "new"])
def test_what_has_no_effect_may_be_missing(lacking, penultimate):
    plan = blueprint(penultimate)
    whole = {name: HandedOver(full_weights(penultimate, seed), name) for seed, name in enumerate(("old", "controlled"))}
    whole["new"] = HandedOver(base_of(full_weights(penultimate, seed=2)), "new")
    used = {name: tensor for name, tensor in whole[lacking].items() if name not in plan.without_effect}
    given = {**whole, lacking: HandedOver(used, lacking)}
    expected, made = (transfer_control(*files.values(), plan) for files in (whole, given))
    assert made.weights.keys() == expected.weights.keys() == plan.shapes.keys()
    for name, tensor in expected.weights.items():
        zero = lacking == "new" and name in plan.without_effect
        assert torch.equal(made.weights[name], torch.zeros_like(tensor) if zero else tensor), name


def test_incomplete_files_are_named(old, controlled, new, plan):
    del new[f"{UNET}out.2.bias"]
    new.source = "new.ckpt"
    with pytest.raises(ValueError, match=r"new\.ckpt is not what .*missing: model\.diffusion_model\.out\.2\.bias"):
        transfer_control(old, controlled, new, plan)
    del controlled[f"{CONTROL}zero_convs.0.0.bias"]
    with pytest.raises(ValueError, match=r"controlled\.pth is not what .*missing: control_model\.zero_convs"):
        transfer_control(old, controlled, old, plan)
