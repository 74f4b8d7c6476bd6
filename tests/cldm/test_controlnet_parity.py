"""ControlNet and the controlled U-Net against diffusers' pair on random weights."""

import pytest
import torch
from diffusers import ControlNetModel, MultiControlNetModel, UNet2DConditionModel

from cldm.cldm import ControlledUnetModel, ControlNet
from cldm.conditions import AppliedControl, summed
from diffusers_names import controlnet_names, copy_weights, random_weights, unet_names
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
THEIRS = {
    "in_channels": 4,
    "block_out_channels": [16, 32, 48],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "layers_per_block": 2,
    "cross_attention_dim": 12,
    "norm_num_groups": 8,
}
STYLES = {
    "15": ({"num_heads": 4}, {"attention_head_dim": 4}),
    "21": (
        {"num_head_channels": 8, "use_linear_in_transformer": True},
        {"attention_head_dim": [2, 4, 6], "use_linear_projection": True},
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_control_and_controlled_prediction_are_diffusers(style):
    our_style, their_style = STYLES[style]
    control_net = ControlNet(hint_channels=3, **PARAMS, **our_style).eval()
    unet = ControlledUnetModel(out_channels=4, **PARAMS, **our_style).eval()
    random_weights(control_net, seed=0)
    random_weights(unet, seed=1)
    their_net = ControlNetModel(**THEIRS, **their_style).eval()
    up = ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
    their_unet = UNet2DConditionModel(out_channels=4, up_block_types=up, **THEIRS, **their_style).eval()
    copy_weights(control_net, their_net, controlnet_names(their_net))
    copy_weights(unet, their_unet, unet_names(their_unet))

    generator = torch.Generator().manual_seed(2)
    x, context = torch.randn(2, 4, 8, 12, generator=generator), torch.randn(2, 7, 12, generator=generator)
    hint, t = torch.rand(2, 3, 64, 96, generator=generator), torch.tensor([3, 901])
    control = control_net(x, hint, t, context)
    theirs = their_net(x, t, context, hint)
    expected = [*theirs.down_block_res_samples, theirs.mid_block_res_sample]
    assert len(control) == len(expected) == 10
    for number, (c, e) in enumerate(zip(control, expected, strict=True)):
        assert_close(c, e, f"connection {number}")
    controlled = their_unet(
        x,
        t,
        context,
        down_block_additional_residuals=theirs.down_block_res_samples,
        mid_block_additional_residual=theirs.mid_block_res_sample,
    ).sample
    assert_close(unet(x, t, context, control), controlled)
    assert_close(unet(x, t, context), their_unet(x, t, context).sample, "without control")


@torch.no_grad()
def test_several_controlnets_are_diffusers_multi_controlnet():
    our_style, their_style = STYLES["15"]
    ours, theirs = [], []
    for seed in (0, 1):
        ours.append(ControlNet(hint_channels=3, **PARAMS, **our_style).eval())
        random_weights(ours[-1], seed)
        theirs.append(ControlNetModel(**THEIRS, **their_style).eval())
        copy_weights(ours[-1], theirs[-1], controlnet_names(theirs[-1]))
    generator = torch.Generator().manual_seed(2)
    x, context = torch.randn(2, 4, 8, 12, generator=generator), torch.randn(2, 7, 12, generator=generator)
    hints = [torch.rand(1, 3, 64, 96, generator=generator) for _ in ours]
    t, weights = torch.tensor([501, 501]), [0.7, 1.3]
    controls = [
        AppliedControl(network, hint, [weight] * 10) for network, hint, weight in zip(ours, hints, weights, strict=True)
    ]
    result = summed([control.outputs(x, t, control.network.text_keys(context)) for control in controls])
    both = [hint.expand(2, -1, -1, -1) for hint in hints]
    down, middle = MultiControlNetModel(theirs)(x, t, context, both, weights, return_dict=False)
    for number, (c, e) in enumerate(zip(result, [*down, middle], strict=True)):
        assert_close(c, e, f"connection {number}")


@torch.no_grad()
@pytest.mark.parametrize("attention_resolutions", [[2, 1], [2], []], ids=["everywhere", "deeper", "in the middle"])
def test_latents_that_stand_for_several_prompts_are_as_those_repeated(attention_resolutions):
    params = {**PARAMS, "attention_resolutions": attention_resolutions, "num_heads": 4}
    control_net = ControlNet(hint_channels=3, **params).eval()
    unet = ControlledUnetModel(out_channels=4, **params).eval()
    random_weights(control_net, seed=0)
    random_weights(unet, seed=1)
    generator = torch.Generator().manual_seed(2)
    x, context = torch.randn(2, 4, 8, 12, generator=generator), torch.randn(4, 7, 12, generator=generator)
    hints, t = torch.rand(4, 3, 64, 96, generator=generator), torch.tensor([3, 901])
    again, times = torch.cat([x, x]), torch.cat([t, t])
    assert_close(unet(x, t, context), unet(again, times, context), "without control")
    for hint in (hints[:1], hints[:2], hints):  # one for all, one for each latent, one for each prompt
        features = control_net.encode_hint(hint)
        whole = features if len(hint) != 2 else torch.cat([features, features])
        control, expected = control_net(x, None, t, context, features), control_net(again, None, times, context, whole)
        for number, (c, e) in enumerate(zip(control, expected, strict=True)):
            assert_close(c if len(c) == 4 else torch.cat([c, c]), e, f"connection {number}")
        prediction = unet(again, times, context, expected)
        assert_close(unet(x, t, context, control), prediction)
        assert_close(unet(x, t, context, expected), prediction, "outputs for each prompt")
    with pytest.raises(ValueError, match="as many conditions as latents, 2, or a multiple of it, got 3"):
        unet(x, t, context[:3])
