"""Parts of the autoencoder; its parity with diffusers is tested with the whole."""

import pytest
import torch
from torch import Tensor, nn

from diffusers_names import random_weights
from ldm.modules.diffusionmodules.model import AttnBlock, Decoder, Downsample, Encoder, ResnetBlock, Upsample

SMALL = {"ch": 8, "num_res_blocks": 1, "z_channels": 3, "num_groups": 4}


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def tap(conv: nn.Conv2d, row: int, column: int) -> None:
    conv.weight.data.zero_()
    conv.weight.data[range(conv.out_channels), range(conv.out_channels), row, column] = 1
    conv.bias.data.zero_()


@torch.no_grad()
def test_downsampling_pads_on_the_right_and_at_the_bottom_only():
    layer, x = Downsample(2), normal(1, 2, 6, 8)
    tap(layer.conv, 0, 0)
    assert torch.equal(layer(x), x[..., ::2, ::2])
    tap(layer.conv, 2, 2)
    shifted = layer(x)
    assert torch.equal(shifted[..., :-1, :-1], x[..., 2::2, 2::2])
    assert (shifted[..., -1, :] == 0).all()
    assert (shifted[..., -1] == 0).all()


@torch.no_grad()
def test_upsampling_repeats_pixels_before_it_convolves():
    layer, x = Upsample(2), normal(1, 2, 3, 4)
    tap(layer.conv, 1, 1)
    assert torch.equal(layer(x), x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


@torch.no_grad()
def test_attention_without_preference_adds_the_mean_of_all_positions():
    block, x = AttnBlock(8, 4), normal(2, 8, 3, 5)
    for parameter in (block.q.weight, block.q.bias, block.v.bias, block.proj_out.bias):
        parameter.zero_()
    for conv in (block.v, block.proj_out):
        conv.weight.copy_(torch.eye(8)[:, :, None, None])
    torch.testing.assert_close(block(x), x + block.norm(x).mean(dim=(2, 3), keepdim=True).expand_as(x))


@torch.no_grad()
@pytest.mark.parametrize("out_channels", [8, 12])
def test_a_residual_block_without_its_last_convolution_is_the_shortcut(out_channels):
    block, x = ResnetBlock(8, out_channels, 0.0, 4), normal(2, 8, 3, 5)
    block.conv2.weight.zero_()
    block.conv2.bias.zero_()
    assert torch.equal(block(x), block.nin_shortcut(x))
    assert block(x).shape == (2, out_channels, 3, 5)


@torch.no_grad()
@pytest.mark.parametrize(("double_z", "channels"), [(True, 6), (False, 3)])
def test_sizes_of_encoder_and_decoder(double_z, channels):
    encoder = Encoder(in_channels=1, ch_mult=[1, 2, 4], double_z=double_z, **SMALL)
    assert encoder(normal(2, 1, 16, 24)).shape == (2, channels, 4, 6)
    decoder = Decoder(out_ch=2, ch_mult=[1, 2, 4], **SMALL)
    assert decoder(normal(2, 3, 4, 6)).shape == (2, 2, 16, 24)
    assert [len(level.block) for level in encoder.down] == [1, 1, 1]
    assert [len(level.block) for level in decoder.up] == [2, 2, 2]


@torch.no_grad()
def test_attention_stands_at_the_resolutions_that_name_it():
    encoder = Encoder(in_channels=3, ch_mult=[1, 2], resolution=32, attn_resolutions=[16], **SMALL)
    decoder = Decoder(out_ch=3, ch_mult=[1, 2], resolution=32, attn_resolutions=[16], **SMALL)
    assert [len(level.attn) for level in encoder.down] == [0, 1]
    assert [len(level.attn) for level in decoder.up] == [0, 2]
    before = encoder(normal(1, 3, 8, 8))
    random_weights(encoder.down[1].attn[0], seed=1)
    assert not torch.allclose(encoder(normal(1, 3, 8, 8)), before), "the attention is used"


def test_norms_have_the_published_epsilon_and_given_groups():
    for network in (Encoder(in_channels=3, ch_mult=[1, 2], **SMALL), Decoder(out_ch=3, ch_mult=[1, 2], **SMALL)):
        norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm)]
        assert {(norm.eps, norm.num_groups) for norm in norms} == {(1e-6, 4)}


def test_thirty_two_groups_are_the_default():
    encoder = Encoder(in_channels=3, ch=32, ch_mult=[1], num_res_blocks=1, z_channels=3)
    assert encoder.norm_out.num_groups == 32
    with pytest.raises(ValueError, match="divisible"):
        Encoder(in_channels=3, ch=8, ch_mult=[1], num_res_blocks=1, z_channels=3)
