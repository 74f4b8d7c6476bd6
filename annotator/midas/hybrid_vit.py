"""The encoder of DPT-hybrid: a ResNet with standardised weights whose features a vision transformer reads as tokens.

ResNet: "Big Transfer (BiT): General Visual Representation Learning", arXiv:1912.11370 (group norm and weight
standardisation). Transformer and the hybrid of both: "An Image is Worth 16x16 Words", arXiv:2010.11929.
Parameters carry the published names.
"""

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

STAGES = ((3, 64, 256, 1), (4, 256, 512, 2), (9, 512, 1024, 2))  # blocks, channels in and out, stride
GROUPS = 32
WIDTH, DEPTH, HEADS = 768, 12, 12
POSITIONS = 24  # the position table was learned for 24 x 24 tokens, which is 384 x 384 pixels
READ_AFTER = (9, 12)  # transformer blocks whose tokens the decoder reads


class StandardizedConv2d(nn.Conv2d):
    """A convolution without bias whose filters are brought to zero mean and unit variance before use.

    Padding is TensorFlow's "same": for a strided kernel on even sides, the odd pixel goes right and below.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, bias=False)
        total = max(kernel - stride, 0)
        self.before, self.after = total // 2, total - total // 2

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-8)
        if self.before == self.after:
            return F.conv2d(x, weight, stride=self.stride, padding=self.before)
        return F.conv2d(F.pad(x, (self.before, self.after) * 2), weight, stride=self.stride)


class Downsample(nn.Module):
    """The shortcut of a stage's first block: to the block's channels and stride."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv = StandardizedConv2d(channels_in, channels_out, 1, stride)
        self.norm = nn.GroupNorm(GROUPS, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Bottleneck(nn.Module):
    """A residual block 1x1, 3x3, 1x1 with a quarter of the channels inside."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, first: bool) -> None:
        super().__init__()
        inner = channels_out // 4
        self.downsample = Downsample(channels_in, channels_out, stride) if first else nn.Identity()
        self.conv1 = StandardizedConv2d(channels_in, inner, 1)
        self.norm1 = nn.GroupNorm(GROUPS, inner)
        self.conv2 = StandardizedConv2d(inner, inner, 3, stride)
        self.norm2 = nn.GroupNorm(GROUPS, inner)
        self.conv3 = StandardizedConv2d(inner, channels_out, 1)
        self.norm3 = nn.GroupNorm(GROUPS, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        h = F.relu(self.norm2(self.conv2(h)))
        return F.relu(self.norm3(self.conv3(h)) + self.downsample(x))


class Stem(nn.Module):
    """Image to 64 channels at a quarter of its sides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = StandardizedConv2d(3, 64, 7, stride=2)
        self.norm = nn.GroupNorm(GROUPS, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1)), kernel_size=3, stride=2)


class Stage(nn.Module):
    """Residual blocks of one resolution."""

    def __init__(self, depth: int, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        first = Bottleneck(channels_in, channels_out, stride, first=True)
        rest = (Bottleneck(channels_out, channels_out, 1, first=False) for _ in range(depth - 1))
        self.blocks = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class ResNet(nn.Module):
    """The first three stages of a ResNet-50 layout: maps at 1/4, 1/8 and 1/16 of the image's sides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem()
        self.stages = nn.ModuleList(Stage(*stage) for stage in STAGES)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps, x = [], self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class PatchEmbed(nn.Module):
    """The ResNet and the projection of its last map to tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet()
        self.proj = nn.Conv2d(1024, WIDTH, 1)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three heads c) -> three b heads n c", three=3, heads=self.heads)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n c -> b n (heads c)"))


class MLP(nn.Module):
    """Two linear layers with GELU between, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A transformer block, normalised before attention and before the MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class HybridViT(nn.Module):
    """ResNet and transformer; gives the four maps that the decoder reads."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + POSITIONS**2, WIDTH))
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(DEPTH))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode an image.

        Args:
            x: Image in [-1, 1], (b, 3, h, w), sides multiples of 32.

        Returns:
            The ResNet's maps (b, 256, h/4, w/4) and (b, 512, h/8, w/8), then for each block of `READ_AFTER` the
            tokens, each joined with the class token, (b, h/16, w/16, 1536).
        """
        quarter, eighth, sixteenth = self.patch_embed.backbone(x)
        grid = self.patch_embed.proj(sixteenth)
        height, width = grid.shape[-2:]
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), rearrange(grid, "b c h w -> b (h w) c")], dim=1)
        tokens = tokens + self.positions(height, width)
        read = []
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if number in READ_AFTER:
                image_tokens = rearrange(tokens[:, 1:], "b (h w) c -> b h w c", h=height)
                read.append(torch.cat([image_tokens, repeat(tokens[:, 0], "b c -> b h w c", h=height, w=width)], -1))
        return quarter, eighth, *read

    def positions(self, height: int, width: int) -> Tensor:
        """The position table stretched to a grid of `height` x `width` tokens, the class token's entry first."""
        table = rearrange(self.pos_embed[:, 1:], "b (h w) c -> b c h w", h=POSITIONS)
        table = F.interpolate(table, size=(height, width), mode="bilinear")
        return torch.cat([self.pos_embed[:, :1], rearrange(table, "b c h w -> b (h w) c")], dim=1)
