"""The network of holistically-nested edge detection: VGG-16's convolutions with five side outputs."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn, zeros

STRIDE = 16
"""Pixels of the image per cell of the last projection."""

REACH = 96
"""An output depends on the image no farther than 90 pixels from its cell (2 * 1 + 2 * 2 + 3 * 4 + 3 * 8 + 3 * 16 from
the 3x3 convolutions of the five blocks), rounded up to the stride."""


class Block(nn.Module):
    """3x3 convolutions at one resolution, and a projection of their result to one channel."""

    def __init__(self, in_channels: int, out_channels: int, depth: int) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * depth
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.projection = nn.Conv2d(out_channels, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self.convs:
            x = F.relu_(conv(x))
        return x, self.projection(x)


class HEDNetwork(nn.Module):
    """Image to edge logits at strides 1, 2, 4, 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Parameter(zeros(1, 3, 1, 1))
        self.block1 = Block(3, 64, 2)
        self.block2 = Block(64, 128, 2)
        self.block3 = Block(128, 256, 3)
        self.block4 = Block(256, 512, 3)
        self.block5 = Block(512, 512, 3)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Edge logits of every block.

        Args:
            image: RGB, 0 to 255, (b, 3, h, w), sides at least 16.

        Returns:
            Five tensors (b, 1, h / s, w / s), s = 1, 2, 4, 8, 16, rounded down.
        """
        x, projection = self.block1(image - self.norm)
        projections = [projection]
        for block in (self.block2, self.block3, self.block4, self.block5):
            x, projection = block(F.max_pool2d(x, 2))
            projections.append(projection)
        return tuple(projections)
