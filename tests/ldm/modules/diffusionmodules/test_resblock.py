"""The U-Net's residual and resampling blocks against diffusers, and known answers."""

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from diffusers_names import RESNET, copy_weights, random_weights
from ldm.modules.attention import SpatialTransformer
from ldm.modules.diffusionmodules.resblock import Downsample, ResBlock, TimestepEmbedSequential, Upsample
from parity import assert_close


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize(("channels", "out_channels"), [(16, 16), (16, 24)])
def test_residual_block_is_diffusers(channels, out_channels):
    ours = ResBlock(channels, 12, 0.0, out_channels, num_groups=8)
    random_weights(ours, seed=1)
    theirs = ResnetBlock2D(in_channels=channels, out_channels=out_channels, temb_channels=12, groups=8, eps=1e-5)
    copy_weights(ours, theirs, RESNET)
    x, emb = normal(2, channels, 6, 5), normal(2, 12, seed=1)
    assert_close(ours(x, emb), theirs(x, emb))


def test_a_fresh_residual_block_is_its_shortcut():
    x, emb = normal(2, 32, 6, 5), normal(2, 12)
    assert torch.equal(ResBlock(32, 12, 0.0, 32)(x, emb), x)
    wider = ResBlock(32, 12, 0.0, 64)
    torch.testing.assert_close(wider(x, emb), wider.skip_connection(x))


def test_norms_have_the_published_epsilon_and_given_groups():
    norms = [m for m in ResBlock(32, 12, 0.0, 32, num_groups=4).modules() if isinstance(m, nn.GroupNorm)]
    assert [(norm.eps, norm.num_groups) for norm in norms] == [(1e-5, 4)] * 2
    assert ResBlock(32, 12, 0.0, 32).in_layers[0].num_groups == 32


def test_recomputing_gives_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        block = ResBlock(16, 12, 0.0, 24, use_checkpoint=recompute, num_groups=8)
        random_weights(block, seed=0)
        x, emb = normal(2, 16, 4, 4).requires_grad_(), normal(2, 12).requires_grad_()
        block(x, emb).square().mean().backward()
        gradients.append([x.grad, emb.grad, *(p.grad for p in block.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def centre_tap(conv: nn.Conv2d) -> None:
    conv.weight.data.zero_()
    conv.weight.data[range(conv.out_channels), range(conv.out_channels), 1, 1] = 1
    conv.bias.data.zero_()


@torch.no_grad()
def test_downsampling_is_centred_on_every_second_pixel():
    layer = Downsample(2)
    centre_tap(layer.op)
    x = normal(1, 2, 6, 8)
    assert torch.equal(layer(x), x[..., ::2, ::2])


@torch.no_grad()
def test_upsampling_repeats_pixels_before_it_convolves():
    layer = Upsample(2)
    centre_tap(layer.conv)
    x = normal(1, 2, 3, 4)
    assert torch.equal(layer(x), x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


@torch.no_grad()
def test_blocks_in_a_row_are_given_what_they_take():
    resblock, transformer = (
        ResBlock(16, 12, 0.0, 16, num_groups=8),
        SpatialTransformer(16, 2, 8, context_dim=10, num_groups=8),
    )
    row = TimestepEmbedSequential(resblock, transformer, nn.Conv2d(16, 3, 1))
    random_weights(row, seed=0)
    x, emb, context = normal(1, 16, 4, 4), normal(1, 12), normal(1, 5, 10)
    torch.testing.assert_close(row(x, emb, context), row[2](transformer(resblock(x, emb), context)))
