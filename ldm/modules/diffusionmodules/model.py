"""Encoder and decoder of the autoencoder (Esser et al., arXiv:2012.09841; Rombach et al., arXiv:2112.10752)."""

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.modules.blocks import silu, upsample_nearest

EPS = 1e-6
"""Of every group normalisation here; the U-Net's blocks use 1e-5."""


class ResnetBlock(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float, num_groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, in_channels, EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(num_groups, out_channels, EPS)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)
        else:
            self.nin_shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(self.dropout(silu(self.norm2(h))))
        return self.nin_shortcut(x) + h


class AttnBlock(nn.Module):
    """Self-attention over all positions, one head as wide as the channels."""

    def __init__(self, channels: int, num_groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, channels, EPS)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        normalised = self.norm(x)
        q, k, v = (rearrange(f(normalised), "b c h w -> b 1 (h w) c") for f in (self.q, self.k, self.v))
        attended = rearrange(F.scaled_dot_product_attention(q, k, v), "b 1 (h w) c -> b c h w", h=x.shape[2])
        return x + self.proj_out(attended)


class Downsample(nn.Module):
    """Halve height and width; the input is padded on the right and at the bottom only."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(upsample_nearest(x))


class _Level(nn.Module):
    """The blocks of one resolution; `resample` is kept under the name that published weights give it."""

    def __init__(self, blocks: list[ResnetBlock], attentions: list[AttnBlock], **resample: nn.Module):
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.attn = nn.ModuleList(attentions)
        for name, module in resample.items():
            self.add_module(name, module)
        self._resample = list(resample)

    def layers(self) -> Iterator[nn.Module]:
        """In order, for the caller to apply, so that it holds no feature map longer than one of them needs it."""
        for i, block in enumerate(self.block):
            yield block
            if len(self.attn):
                yield self.attn[i]
        for name in self._resample:
            yield getattr(self, name)


class _Middle(nn.Module):
    def __init__(self, channels: int, dropout: float, num_groups: int):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, dropout, num_groups)
        self.attn_1 = AttnBlock(channels, num_groups)
        self.block_2 = ResnetBlock(channels, channels, dropout, num_groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Pixels (b, in_channels, H, W) to the posterior's parameters (b, 2 z_channels or z_channels, h, w).

    Each entry of `ch_mult` but the last halves height and width.

    Args:
        ch: Channels at full resolution.
        ch_mult: Channels of each resolution, as multiples of `ch`.
        num_res_blocks: Blocks at each resolution.
        in_channels: Channels of the image.
        z_channels: Channels of the latent.
        resolution: Side of the images that `attn_resolutions` speaks of.
        attn_resolutions: Sides at which self-attention follows each block.
        dropout: Probability in the blocks.
        double_z: Whether the log-variance is predicted too.
        num_groups: Of every group normalisation.
    """

    def __init__(
        self,
        *,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        in_channels: int,
        z_channels: int,
        resolution: int = 256,
        attn_resolutions: Sequence[int] = (),
        dropout: float = 0.0,
        double_z: bool = True,
        num_groups: int = 32,
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList()
        channels = ch
        for level, mult in enumerate(ch_mult):
            blocks, attentions = [], []
            for _ in range(num_res_blocks):
                blocks.append(ResnetBlock(channels, ch * mult, dropout, num_groups))
                channels = ch * mult
                if resolution >> level in attn_resolutions:
                    attentions.append(AttnBlock(channels, num_groups))
            last = level == len(ch_mult) - 1
            resample = {} if last else {"downsample": Downsample(channels)}
            self.down.append(_Level(blocks, attentions, **resample))
        self.mid = _Middle(channels, dropout, num_groups)
        self.norm_out = nn.GroupNorm(num_groups, channels, EPS)
        self.conv_out = nn.Conv2d(channels, 2 * z_channels if double_z else z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for layer in (layer for level in self.down for layer in level.layers()):
            h = layer(h)
        h = self.mid(h)
        return self.conv_out(silu(self.norm_out(h)))


class Decoder(nn.Module):
    """Latents (b, z_channels, h, w) to pixels (b, out_ch, H, W); the arguments are the encoder's.

    It has one block more at each resolution than the encoder.
    """

    def __init__(
        self,
        *,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        out_ch: int,
        z_channels: int,
        resolution: int = 256,
        attn_resolutions: Sequence[int] = (),
        dropout: float = 0.0,
        num_groups: int = 32,
    ):
        super().__init__()
        channels = ch * ch_mult[-1]
        self.conv_in = nn.Conv2d(z_channels, channels, 3, padding=1)
        self.mid = _Middle(channels, dropout, num_groups)
        levels = []
        for level in reversed(range(len(ch_mult))):
            blocks, attentions = [], []
            for _ in range(num_res_blocks + 1):
                blocks.append(ResnetBlock(channels, ch * ch_mult[level], dropout, num_groups))
                channels = ch * ch_mult[level]
                if resolution >> level in attn_resolutions:
                    attentions.append(AttnBlock(channels, num_groups))
            resample = {"upsample": Upsample(channels)} if level else {}
            levels.insert(0, _Level(blocks, attentions, **resample))
        self.up = nn.ModuleList(levels)
        self.norm_out = nn.GroupNorm(num_groups, channels, EPS)
        self.conv_out = nn.Conv2d(channels, out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for layer in (layer for level in reversed(self.up) for layer in level.layers()):
            h = layer(h)
        return self.conv_out(silu(self.norm_out(h)))
