"""Every shape that ControlNets are published in, to every shape that programs expect."""

import pytest
import torch

from checkpoints import CONTROL, POSITION_IDS, UNET, assert_same, base_of, control_of, full_weights, tiny_config
from cldm.weights.converting import to_control, to_diffusers, to_ldm
from cldm.weights.expected import SCHEDULE
from cldm.weights.merging import merge
from ldm.deferred import HandedOver


def unprefixed(control):
    return {name.removeprefix(CONTROL): tensor for name, tensor in control.items()}


def with_ids(weights):
    return {**weights, POSITION_IDS: torch.arange(77)[None]}


SHAPES = {
    "full": lambda control, base: {**base, **control},
    "full with position ids": lambda control, base: with_ids({**base, **control}),
    "prefixed": lambda control, base: control,
    "unprefixed": lambda control, base: unprefixed(control),
    "diffusers": lambda control, base: to_diffusers(control),
    "backwards": lambda control, base: dict(reversed(control.items())),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_becomes_any_other_to_the_bit(shape, weights, plan):
    base, control = base_of(weights), control_of(weights)
    given = HandedOver(SHAPES[shape](control, base), "c.pth")
    made = to_control(given, None, plan)
    assert list(made) == list(plan.control), "in the model's order, so that equal weights make equal files"
    assert_same(made, control)
    assert to_diffusers(made).keys() == to_diffusers(control).keys()
    assert_same(to_ldm(given, base, plan), with_ids(weights))


def test_a_full_file_with_position_ids_gives_its_controlnet_to_another_base(weights, plan, config):
    other = base_of(full_weights(config, seed=1))
    merged = merge(other, HandedOver(with_ids(weights), "full"), plan)
    assert_same(merged, {**other, **control_of(weights)})


def test_a_full_checkpoint_needs_no_base_and_gets_what_older_loaders_ask_for(weights, plan):
    bare = HandedOver({name: t for name, t in weights.items() if name not in SCHEDULE}, "bare")
    assert_same(to_ldm(bare, None, plan), with_ids(weights))


@pytest.mark.parametrize("shape", ["prefixed", "unprefixed", "diffusers"])
def test_a_difference_becomes_a_controlnet_with_its_base(shape, weights, plan):
    base, control = base_of(weights), control_of(weights)
    twins = {name: base.get(name.replace(CONTROL, UNET)) for name in control}
    stored = {name: t if twins[name] is None else t - twins[name] for name, t in control.items()}
    given = HandedOver({**SHAPES[shape](stored, base), "difference": torch.tensor([])}, "diff.safetensors")
    made = to_control(given, base, plan)
    assert made.keys() == control.keys()
    for name, tensor in control.items():
        torch.testing.assert_close(made[name], tensor, msg=name)
    with pytest.raises(ValueError, match=r"diff\.safetensors is stored as the difference .*--base"):
        to_control(given, None, plan)
    with pytest.raises(ValueError, match=r"control is not what the model expects: missing: model\."):
        to_control(given, control, plan)


def test_linear_projections_are_turned_into_what_the_version_has(weights, plan):
    name = f"{CONTROL}input_blocks.1.1.proj_in.weight"
    control = control_of(weights)
    given = HandedOver({**control, name: control[name].flatten(1)}, "c.pth")
    assert_same(to_control(given, None, plan), control)


def test_a_controlnet_alone_is_no_full_checkpoint(weights, plan):
    with pytest.raises(ValueError, match=r"control is no full checkpoint; give .* --base"):
        to_ldm(control_of(weights), None, plan)


def test_what_is_missing_and_what_is_of_another_version_is_named(weights, plan, tmp_path):
    control = control_of(weights)
    cut = HandedOver(dict(list(control.items())[:-1]), "cut.pth")
    with pytest.raises(ValueError, match=r"cut\.pth is not what .*missing: control_model\."):
        to_control(cut, None, plan)
    other = full_weights(tiny_config(tmp_path, context_dim=24))
    for given, base in ((control_of(other), None), (control, base_of(other))):
        with pytest.raises(ValueError, match="of width 24"):
            to_control(given, base, plan)
