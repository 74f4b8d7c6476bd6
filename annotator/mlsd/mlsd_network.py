"""The networks of M-LSD: MobileNetV2 features, and a decoder that maps them to line segments.

The backbone is of M. Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights

MULTIPLE = 16
"""Sides of the input are multiples of it."""

_MAP_CHANNELS = 9  # the last of the 16; the others are there for training only


def folded(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """A convolution and the normalisation by running statistics after it, in one step: for inference only."""
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    if conv.stride == (2, 2):
        x = F.pad(x, (0, 1, 0, 1))  # right and bottom only, as TensorFlow does
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


class ConvNorm(nn.Sequential):
    """A convolution that keeps the size or halves it, normalisation, activation."""

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, activation = self
        return activation(folded(x, conv, norm))


def conv_norm_relu6(in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1) -> ConvNorm:
    padding = size // 2 if stride == 1 else 0
    conv = nn.Conv2d(in_channels, out_channels, size, stride, padding, groups=groups, bias=False)
    return ConvNorm(conv, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True))


def conv_norm_relu(in_channels: int, out_channels: int, size: int, dilation: int = 1) -> ConvNorm:
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2 * dilation, dilation=dilation)
    return ConvNorm(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            *([conv_norm_relu6(in_channels, width, 1)] if expansion > 1 else []),
            conv_norm_relu6(width, width, 3, stride, groups=width),
            nn.Conv2d(width, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        *widening, conv, norm = self.conv
        wide = x
        for layer in widening:
            wide = layer(wide)
        narrow = folded(wide, conv, norm)
        return narrow + x if self.residual else narrow


class Backbone(nn.Module):
    """MobileNetV2 up to stride 16, its features tapped at several layers.

    Args:
        stages: (expansion, channels, layers, stride of the first layer) each.
        taps: Layers whose outputs are returned.
    """

    def __init__(self, stages: tuple[tuple[int, int, int, int], ...], taps: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm_relu6(4, 32, 3, stride=2)]
        channels = 32
        for expansion, width, depth, stride in stages:
            for layer in range(depth):
                layers.append(InvertedResidual(channels, width, stride if layer == 0 else 1, expansion))
                channels = width
        self.features = nn.Sequential(*layers)
        self.taps = taps

    def forward(self, x: Tensor) -> list[Tensor]:
        tapped = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                tapped.append(x)
        return tapped


class Join(nn.Module):
    """Block A: finer features beside coarser ones, brought to the finer size."""

    def __init__(self, fine: int, coarse: int, fine_out: int, coarse_out: int) -> None:
        super().__init__()
        self.conv1 = conv_norm_relu(coarse, coarse_out, 1)
        self.conv2 = conv_norm_relu(fine, fine_out, 1)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        fine, coarse = self.conv2(fine), self.conv1(coarse)
        if coarse.shape != fine.shape:
            coarse = F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=True)
        return torch.cat([fine, coarse], dim=1)


class Refine(nn.Module):
    """Block B: a residual convolution and one that narrows."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = conv_norm_relu(in_channels, in_channels, 3)
        self.conv2 = conv_norm_relu(in_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x) + x)


class Head(nn.Sequential):
    """Block C: a wide look around, then the map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv_norm_relu(channels, channels, 3, dilation=5)
        self.conv2 = conv_norm_relu(channels, channels, 3)
        self.conv3 = nn.Conv2d(channels, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, -_MAP_CHANNELS:]


class MLSDLarge(nn.Module):
    """Image to the map of line segments; `mlsd_large_512_fp32.pth`."""

    def __init__(self) -> None:
        super().__init__()
        stages = (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)
        self.backbone = Backbone(stages, taps=(1, 3, 6, 10, 13))
        self.block15 = Join(64, 96, 64, 64)
        self.block16 = Refine(128, 64)
        self.block17 = Join(32, 64, 64, 64)
        self.block18 = Refine(128, 64)
        self.block19 = Join(24, 64, 64, 64)
        self.block20 = Refine(128, 64)
        self.block21 = Join(16, 64, 64, 64)
        self.block22 = Refine(128, 64)
        self.block23 = Head(64)

    def forward(self, x: Tensor) -> Tensor:
        """The map, see `annotator.mlsd.decode`.

        Args:
            x: RGB and a channel of ones, all / 127.5 - 1, (b, 4, h, w), sides multiples of 16.

        Returns:
            (b, 9, h / 2, w / 2).
        """
        c1, c2, c3, c4, c5 = self.backbone(x)
        x = self.block16(self.block15(c4, c5))
        x = self.block18(self.block17(c3, x))
        x = self.block20(self.block19(c2, x))
        x = self.block22(self.block21(c1, x))
        return self.block23(x)


class MLSDTiny(nn.Module):
    """The same with fewer layers, at a quarter of the size inside; `mlsd_tiny_512_fp32.pth`."""

    def __init__(self) -> None:
        super().__init__()
        stages = (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)
        self.backbone = Backbone(stages, taps=(3, 6, 10))
        self.block12 = Join(32, 64, 64, 64)
        self.block13 = Refine(128, 64)
        self.block14 = Join(24, 64, 32, 32)
        self.block15 = Refine(64, 64)
        self.block16 = Head(64)

    def forward(self, x: Tensor) -> Tensor:
        """Takes and returns what `MLSDLarge` does."""
        c2, c3, c4 = self.backbone(x)
        x = self.block13(self.block12(c3, c4))
        x = self.block15(self.block14(c2, x))
        return F.interpolate(self.block16(x), scale_factor=2, mode="bilinear", align_corners=True)
