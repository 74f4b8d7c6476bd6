"""The U-Net against diffusers, its parameters, and wrong arguments."""

import pickle

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

import tiny
from diffusers_names import copy_weights, random_weights, unet_names
from ldm.modules.attention import SpatialTransformer
from ldm.modules.diffusionmodules.openaimodel import UNetEncoder, UNetModel
from ldm.util import instantiate_from_config
from parity import assert_close

PARAMS = {
    "in_channels": 4,
    "model_channels": 16,
    "attention_resolutions": [2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 3],
    "context_dim": 12,
    "num_groups": 8,
}
STYLES = {
    "15": ({"num_heads": 4}, {"attention_head_dim": 4}),  # diffusers calls the number of heads so
    "21": (
        {"num_head_channels": 8, "use_linear_in_transformer": True},
        {"attention_head_dim": [2, 4, 6], "use_linear_projection": True},
    ),
}


def unet(style: str = "15", **changes) -> UNetModel:
    network = UNetModel(out_channels=5, **{**PARAMS, **STYLES[style][0], **changes}).eval()
    random_weights(network, seed=0)
    return network


def inputs(height: int = 8, width: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, height, width, generator=generator)
    return x, torch.tensor([3, 901]), torch.randn(2, 7, 12, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_unet_is_diffusers(style):
    ours = unet(style)
    theirs = UNet2DConditionModel(
        in_channels=4,
        out_channels=5,
        block_out_channels=[16, 32, 48],
        down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        layers_per_block=2,
        cross_attention_dim=12,
        norm_num_groups=8,
        **STYLES[style][1],
    ).eval()
    copy_weights(ours, theirs, unet_names(theirs))
    x, t, context = inputs()
    assert_close(ours(x, t, context), theirs(x, t, context).sample)


def test_a_fresh_unet_predicts_zero():
    network = UNetModel(out_channels=5, num_heads=4, **PARAMS)
    assert (network(*inputs()) == 0).all()


@torch.no_grad()
def test_prompt_and_time_matter():
    network = unet()
    x, t, context = inputs()
    output = network(x, t, context)
    assert not torch.allclose(network(x, t, context + 1), output)
    assert not torch.allclose(network(x, t + 50, context), output)


@torch.no_grad()
def test_encoder_gives_every_skip_and_the_middle():
    network = UNetEncoder(num_heads=4, **PARAMS)
    x, t, context = inputs()
    outputs = list(network.encode(x, network.embed(t, context), context))
    assert [o.shape[1] for o in outputs] == [*network.skip_channels, network.middle_channels]
    assert network.skip_channels == [16, 16, 16, 16, 32, 32, 32, 48, 48]
    assert [tuple(o.shape[2:]) for o in outputs[::3]] == [(8, 12), (4, 6), (2, 3), (2, 3)]
    assert network.downsampling == 4


@torch.no_grad()
def test_an_encoded_hint_is_added_to_the_first_output():
    network = UNetEncoder(num_heads=4, **PARAMS)
    random_weights(network, seed=0)
    x, t, context = inputs()
    hint = torch.randn(2, 16, 8, 12, generator=torch.Generator().manual_seed(2))
    emb = network.embed(t, context)
    plain, hinted = list(network.encode(x, emb, context)), list(network.encode(x, emb, context, hint))
    torch.testing.assert_close(hinted[0], plain[0] + hint)
    assert all(not torch.allclose(a, b) for a, b in zip(plain, hinted, strict=True))


def test_the_unets_first_half_is_an_encoder_of_the_same_parameters():
    encoder, whole = UNetEncoder(num_heads=4, **PARAMS), unet()
    shapes = {name: p.shape for name, p in whole.named_parameters()}
    assert {name: p.shape for name, p in encoder.named_parameters()}.items() <= shapes.items()
    rest = shapes.keys() - dict(encoder.named_parameters()).keys()
    assert {name.split(".")[0] for name in rest} == {"output_blocks", "out"}


def test_heads_are_as_many_or_as_wide_as_asked_for():
    def heads(style: str, **changes) -> set[tuple[int, int]]:
        found = [m for m in unet(style, **changes).modules() if isinstance(m, SpatialTransformer)]
        blocks = [(m.transformer_blocks[0].attn1, m.norm.num_channels) for m in found]
        return {(channels, attention.heads) for attention, channels in blocks}

    assert heads("15") == {(16, 4), (32, 4), (48, 4)}
    assert heads("21") == {(16, 2), (32, 4), (48, 6)}
    assert heads("21", num_heads=4) == heads("21"), "the channels of each head decide where both are given"


def upcasting(network: nn.Module) -> set[bool]:
    return {m.upcast_attention for m in network.modules() if hasattr(m, "upcast_attention")}


def test_attention_is_upcast_in_stable_diffusion_2_by_default():
    assert upcasting(unet("15")) == {False}
    assert upcasting(unet("21")) == {True}
    assert upcasting(unet("21", upcast_attention=False)) == {False}


def test_groups_are_thirty_two_or_as_given():
    def groups(network: nn.Module) -> set[int]:
        return {m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)}

    assert groups(unet()) == {8}
    assert groups(tiny.unet()) == {32}
    with pytest.raises(ValueError, match="divisible"):
        unet(num_groups=32)


def test_recomputing_gives_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        network = unet(use_checkpoint=recompute, channel_mult=[1, 2], num_res_blocks=1)
        assert {m.use_checkpoint for m in network.modules() if hasattr(m, "use_checkpoint")} == {recompute}
        network(*inputs()).square().mean().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    plain, recomputed = gradients
    assert all(gradient is not None and gradient.any() for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, msg=name)


@torch.no_grad()
def test_a_network_in_half_precision_answers_in_the_inputs():
    network = unet().to(torch.bfloat16)
    x, t, context = inputs()
    output = network(x, t, context)
    assert (network.dtype, output.dtype) == (torch.bfloat16, torch.float32)
    reference = unet()(x, t, context)
    assert (output - reference).norm() / reference.norm() < 0.1


def test_keys_of_published_configs_are_accepted():
    unet(image_size=32, legacy=False, use_fp16=True, use_spatial_transformer=True)


ORIGINALS = {
    "adm_in_channels": None,
    "conv_resample": True,
    "dims": 2,
    "disable_middle_self_attn": False,
    "disable_self_attentions": None,
    "dropout": 0,
    "n_embed": None,
    "num_attention_blocks": None,
    "num_classes": None,
    "num_heads_upsample": -1,
    "predict_codebook_ids": False,
    "resblock_updown": False,
    "use_fp16": False,
    "use_new_attention_order": False,
    "use_scale_shift_norm": False,
}
"""What other yaml files say of a Stable Diffusion's U-Net, in the way that changes nothing."""
NETWORKS = {"cldm.cldm.ControlNet": {"hint_channels": 3}, "cldm.cldm.ControlledUnetModel": {"out_channels": 4}}


@pytest.mark.parametrize("target", NETWORKS)
def test_the_originals_other_keys_are_accepted_where_they_ask_for_nothing(target):
    params = {**tiny.encoder_params("15"), **NETWORKS[target]}
    plain, network = (
        instantiate_from_config({"target": target, "params": {**params, **others}}) for others in ({}, ORIGINALS)
    )
    names, expected = ({name: tensor.shape for name, tensor in n.state_dict().items()} for n in (network, plain))
    assert names == expected


@pytest.mark.parametrize("target", NETWORKS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_resample": False}, "conv_resample must be true, as it is built here, got false"),
        ({"dims": 3}, "dims must be 2, as it is built here, got 3"),
        ({"num_classes": 1000}, "num_classes must be null, as it is built here, got 1000"),
        ({"num_heads_upsample": 4}, "num_heads_upsample must be -1, as it is built here, got 4"),
        ({"use_scale_shift_norm": True}, "use_scale_shift_norm must be false, as it is built here, got true"),
        ({"num_head": 8}, "has no parameter num_head, got 8 for it; is num_heads meant"),
        ({"wings": "two"}, 'has no parameter wings, got "two" for it; its parameters are .*model_channels.*dims'),
    ],
)
def test_what_other_keys_ask_for_and_unknown_ones_are_named(target, changes, message):
    params = {**tiny.encoder_params("15"), **NETWORKS[target], **changes}
    with pytest.raises(ValueError, match=f"^{target.split('.')[-1]}:? {message}"):
        instantiate_from_config({"target": target, "params": params})


@pytest.mark.parametrize("target", NETWORKS)
def test_a_key_that_is_missing_or_misspelt_is_named(target):
    params = {**tiny.encoder_params("15"), **NETWORKS[target]}
    params["model_chanels"] = params.pop("model_channels")
    with pytest.raises(
        ValueError, match=f"^{target}: missing model_channels; its parameters are .*, got .*model_chanels"
    ):
        instantiate_from_config({"target": target, "params": params})


def test_a_controlnets_key_is_unknown_to_the_unet():
    with pytest.raises(ValueError, match="UNetModel has no parameter hint_channels, got 3 for it"):
        unet(hint_channels=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": -1}, "give one of num_heads and num_head_channels, got -1 and -1"),
        ({"num_head_channels": 5}, "num_head_channels must divide the number of channels, 16, got 5"),
        ({"num_heads": 3}, "num_heads must divide the number of channels, 16, got 3"),
        ({"num_heads": 0}, "num_heads must divide the number of channels, 16, got 0"),
        (
            {"num_heads": -1, "num_head_channels": 64},
            "num_head_channels must divide the number of channels, 16, got 64",
        ),
        ({"context_dim": None}, r"expected use_spatial_transformer: true and context_dim .* got True and None"),
        ({"use_spatial_transformer": False}, r"expected use_spatial_transformer: true .* got False and 12"),
    ],
)
def test_wrong_parameters_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        unet(**changes)


@pytest.mark.parametrize(("height", "width"), [(8, 10), (6, 8)])
def test_latents_that_cannot_be_halved_are_named(height, width):
    message = rf"a latent's sides must be multiples of 4 \(an image's of 32\), got \({height}, {width}\)"
    with pytest.raises(ValueError, match=message):
        unet()(*inputs(height, width))


def test_a_whole_network_can_be_pickled_as_processes_need_it():
    network = unet()
    again = pickle.loads(pickle.dumps(network))
    with torch.no_grad():
        assert torch.equal(again(*inputs()), network(*inputs()))


def test_skips_say_how_much_smaller_than_the_latent_they_are():
    encoder = UNetEncoder(**PARAMS, num_heads=4).eval()
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 3, 12)
    with torch.no_grad():
        *skips, middle = encoder.encode(x, encoder.embed(t, context), context)
        with_keys = list(encoder.encode(x, encoder.embed(t, context), encoder.text_keys(context)))
    assert encoder.skip_reductions == [8 // skip.shape[2] for skip in skips]
    assert encoder.downsampling == 8 // middle.shape[2]
    assert all(torch.equal(a, b) for a, b in zip([*skips, middle], with_keys, strict=True))
