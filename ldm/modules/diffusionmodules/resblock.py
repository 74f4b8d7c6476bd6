"""Residual and resampling blocks of the U-Net (Dhariwal & Nichol, arXiv:2105.05233)."""

from torch import Tensor, nn

from ldm.modules.attention import Context, SpatialTransformer
from ldm.modules.blocks import run, upsample_nearest, zeroed
from ldm.modules.convolution import Conv2d


class ResBlock(nn.Module):
    """Two normalised convolutions, the time embedding added between them, beside a shortcut."""

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float,
        out_channels: int,
        use_checkpoint: bool = False,
        num_groups: int = 32,
    ):
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.in_layers = nn.Sequential(
            nn.GroupNorm(num_groups, channels), nn.SiLU(), Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(num_groups, out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zeroed(Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Transform `x` (b, channels, h, w) with the time embeddings `emb` (b or more, emb_channels), the first b."""
        return run(self._forward, x, emb, recompute=self.use_checkpoint)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[: len(x), :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    """Halve height and width."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Double height and width."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(upsample_nearest(x))


class TimestepEmbedSequential(nn.Sequential):
    """Blocks in a row, each given what it takes beside the feature map: time, prompt or nothing."""

    def forward(self, x: Tensor, emb: Tensor, context: Context) -> Tensor:
        for block in self:
            if isinstance(block, ResBlock):
                x = block(x, emb)
            elif isinstance(block, SpatialTransformer):
                x = block(x, context)
            else:
                x = block(x)
        return x
