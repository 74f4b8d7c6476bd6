"""UniFormer-S: two stages of local convolution blocks, two of global attention blocks.

"UniFormer: Unifying Convolution and Self-attention for Visual Recognition", arXiv:2201.09450; here without windows,
as for segmentation. Parameters carry the published names.
"""

from collections import OrderedDict

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (64, 128, 320, 512)
DEPTHS = (3, 4, 8, 3)
HEAD_WIDTH = 64


class PatchEmbed(nn.Module):
    """Shrink the sides by `patch`, change the channels and normalise them."""

    def __init__(self, channels_in: int, channels_out: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels_in, channels_out, patch, stride=patch)
        self.norm = nn.LayerNorm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return over_channels(self.norm, self.proj(x))


def over_channels(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Normalise each pixel of `x`, (b, c, h, w), over its channels."""
    return rearrange(norm(rearrange(x, "b c h w -> b h w c")), "b h w c -> b c h w")


def position_convolution(width: int) -> nn.Conv2d:
    """The 3x3 depthwise convolution that tells a block where its pixels are."""
    return nn.Conv2d(width, width, 3, padding=1, groups=width)


def mlp(width: int, layer: type[nn.Linear] | type[nn.Conv2d], **options: int) -> nn.Sequential:
    """Two layers with GELU between, four times as wide inside."""
    layers = (
        ("fc1", layer(width, 4 * width, **options)),
        ("gelu", nn.GELU()),
        ("fc2", layer(4 * width, width, **options)),
    )
    return nn.Sequential(OrderedDict(layers))


class LocalBlock(nn.Module):
    """A block of stages 1 and 2: pixels see their 5x5 neighbourhood."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pos_embed = position_convolution(width)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 1)
        self.conv2 = nn.Conv2d(width, width, 1)
        self.attn = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm2 = nn.BatchNorm2d(width)
        self.mlp = mlp(width, nn.Conv2d, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        x = x + self.conv2(self.attn(self.conv1(self.norm1(x))))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three heads c) -> three b heads n c", three=3, heads=self.heads)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n c -> b n (heads c)"))


class GlobalBlock(nn.Module):
    """A block of stages 3 and 4: every pixel sees every other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pos_embed = position_convolution(width)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = mlp(width, nn.Linear)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        tokens = rearrange(x, "b c h w -> b (h w) c")
        tokens = tokens + self.attn(self.norm1(tokens))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2])


class UniFormer(nn.Module):
    """An image to four maps, finest first."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed1 = PatchEmbed(3, WIDTHS[0], 4)
        self.patch_embed2 = PatchEmbed(WIDTHS[0], WIDTHS[1], 2)
        self.patch_embed3 = PatchEmbed(WIDTHS[1], WIDTHS[2], 2)
        self.patch_embed4 = PatchEmbed(WIDTHS[2], WIDTHS[3], 2)
        self.blocks1 = nn.Sequential(*(LocalBlock(WIDTHS[0]) for _ in range(DEPTHS[0])))
        self.blocks2 = nn.Sequential(*(LocalBlock(WIDTHS[1]) for _ in range(DEPTHS[1])))
        self.blocks3 = nn.Sequential(*(GlobalBlock(WIDTHS[2]) for _ in range(DEPTHS[2])))
        self.blocks4 = nn.Sequential(*(GlobalBlock(WIDTHS[3]) for _ in range(DEPTHS[3])))
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width, eps=1e-6) for width in WIDTHS)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Encode a normalised image (b, 3, h, w), h and w at least 32, to maps at 1/4, 1/8, 1/16 and 1/32."""
        x1 = self.blocks1(self.patch_embed1(x))
        x2 = self.blocks2(self.patch_embed2(x1))
        x3 = self.blocks3(self.patch_embed3(x2))
        x4 = self.blocks4(self.patch_embed4(x3))
        norms = (self.norm1, self.norm2, self.norm3, self.norm4)
        return [over_channels(norm, x) for norm, x in zip(norms, (x1, x2, x3, x4), strict=True)]
