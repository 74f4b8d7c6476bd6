"""UPerNet: segment an image from the four maps of an encoder.

"Unified Perceptual Parsing for Scene Understanding", arXiv:1807.10221. Parameters carry the published names.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.uniformer.ade20k import CLASSES
from annotator.uniformer.uniformer_s import WIDTHS, UniFormer

CHANNELS = 512
POOLS = (1, 2, 3, 6)  # sides of the pooled maps, in cells
UNUSED = ("auxiliary_head",)  # helped training, in the file only


class ConvBN(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, channels_in: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, CHANNELS, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Pool(nn.AdaptiveAvgPool2d):
    """Means over n x n cells; on the CPU for Apple's GPUs, which take only sizes that n divides."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.cpu()).to(x.device) if x.device.type == "mps" else super().forward(x)


def resize_like(x: Tensor, reference: Tensor) -> Tensor:
    """`x` with the height and width of `reference`."""
    return F.interpolate(x, size=reference.shape[2:], mode="bilinear")


class UPerHead(nn.Module):
    """Pool the coarsest map at four scales, carry the result down to the finest map, classify its pixels."""

    def __init__(self) -> None:
        super().__init__()
        *fine, coarsest = WIDTHS
        self.psp_modules = nn.ModuleList(nn.Sequential(Pool(n), ConvBN(coarsest, 1)) for n in POOLS)
        self.bottleneck = ConvBN(coarsest + len(POOLS) * CHANNELS, 3)
        self.lateral_convs = nn.ModuleList(ConvBN(width, 1) for width in fine)
        self.fpn_convs = nn.ModuleList(ConvBN(CHANNELS, 3) for _ in fine)
        self.fpn_bottleneck = ConvBN(len(WIDTHS) * CHANNELS, 3)
        self.conv_seg = nn.Conv2d(CHANNELS, len(CLASSES), 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        *fine, coarsest = maps
        levels = [lateral(x) for lateral, x in zip(self.lateral_convs, fine, strict=True)] + [self.pool(coarsest)]
        for i in reversed(range(len(fine))):
            levels[i] = levels[i] + resize_like(levels[i + 1], levels[i])
        pyramid = [conv(x) for conv, x in zip(self.fpn_convs, levels[:-1], strict=True)] + levels[-1:]
        joined = torch.cat([resize_like(x, pyramid[0]) for x in pyramid], dim=1)
        return self.conv_seg(self.fpn_bottleneck(joined))

    def pool(self, x: Tensor) -> Tensor:
        pools = [resize_like(module(x), x) for module in self.psp_modules]
        return self.bottleneck(torch.cat([x, *pools], dim=1))


class UniFormerUPerNet(nn.Module):
    """The whole network of `upernet_global_small.pth`, without its auxiliary head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = UniFormer()
        self.decode_head = UPerHead()

    def forward(self, x: Tensor) -> Tensor:
        """Score every class at every pixel.

        Args:
            x: Normalised RGB, (b, 3, h, w), h and w at least 32.

        Returns:
            Logits of the 150 classes of ADE20K, (b, 150, h, w).
        """
        return resize_like(self.decode_head(self.backbone(x)), x)
