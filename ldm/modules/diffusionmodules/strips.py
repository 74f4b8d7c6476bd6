"""The autoencoder in strips of rows: what it gives as a whole, with little of it in memory at a time.

A convolution is given a row more above and below its strip than it returns, so that strips fit together without a seam.
A group normalisation needs the mean and variance over the whole map: these are taken first, strip by strip, and the
normalisation is then applied strip by strip. So nothing is approximated, and the result differs from the plain one's by
rounding alone. Between layers whole maps rest where the caller says; where the weights are, there are only strips.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules.blocks import upsample_nearest
from ldm.modules.diffusionmodules.model import AttnBlock, Decoder, Encoder, ResnetBlock

STRIP_NUMBERS = 2**22
"""How many numbers of a map are in one strip, about; 16 MB in float32."""


@dataclass(frozen=True)
class _Map:
    """A feature map (b, c, h, w) of which one can have any rows.

    Attributes:
        rows: The rows from the first number to below the second, where the weights are: from where the whole is kept,
            or computed anew at each asking.
        shape: Of the whole.
    """

    rows: Callable[[int, int], Tensor]
    shape: tuple[int, int, int, int]

    def strips(self) -> Iterator[tuple[int, int]]:
        """First row of each strip and the row below its last; even numbers, so that strips can be halved."""
        batch, channels, height, width = self.shape
        step = max(2, STRIP_NUMBERS // (batch * channels * width) // 2 * 2)
        return ((start, min(start + step, height)) for start in range(0, height, step))

    def around(self, start: int, stop: int) -> Tensor:
        """The rows, and those of the neighbouring ones that there are."""
        return self.rows(max(start - 1, 0), min(stop + 1, self.shape[2]))


@dataclass(frozen=True)
class Strips:
    """Runs the halves of an autoencoder strip by strip.

    Attributes:
        device: Where the weights are.
        rest: Where whole maps are between layers.
    """

    device: torch.device
    rest: torch.device

    def decode(self, decoder: Decoder, z: Tensor) -> Tensor:
        """What `decoder(z)` gives, at rest."""
        h = self._middle(decoder, self._convolved(self._map(z), decoder.conv_in))
        for number, level in reversed(list(enumerate(decoder.up))):
            h = self._level(level, h)
            if number:
                h = _upsampled(h, level.upsample.conv)
                h = h if number == 1 else self._kept(h)  # the largest map of all is rather computed twice
        return self._end(decoder, h)

    def encode(self, encoder: Encoder, pixels: Tensor) -> Tensor:
        """What `encoder(pixels)` gives, at rest."""
        h = self._convolved(self._map(pixels), encoder.conv_in)
        for level in encoder.down[:-1]:
            h = self._kept(_downsampled(self._level(level, h), level.downsample.conv))
        return self._end(encoder, self._middle(encoder, self._level(encoder.down[-1], h)))

    def _level(self, level: nn.Module, h: _Map) -> _Map:
        for number, block in enumerate(level.block):
            h = self._block(block, h)
            if len(level.attn):
                h = self._attended(level.attn[number], h)
        return h

    def _middle(self, half: Decoder | Encoder, h: _Map) -> _Map:
        h = self._attended(half.mid.attn_1, self._block(half.mid.block_1, h))
        return self._block(half.mid.block_2, h)

    def _end(self, half: Decoder | Encoder, h: _Map) -> Tensor:
        whole = self._empty(h, half.conv_out)
        activate = _activation(half.norm_out, h)
        for start, stop in h.strips():
            whole[:, :, start:stop] = _convolution(half.conv_out, activate(h.around(start, stop)), h, start, stop)
        return whole

    def _block(self, block: ResnetBlock, x: _Map) -> _Map:
        """A residual block; what leads past it is computed with the first convolution, so that the input can go."""
        inner, output = (self._empty(x, block.conv1) for _ in range(2))
        activate = _activation(block.norm1, x)
        for start, stop in x.strips():
            around = x.around(start, stop)
            first = min(start, 1)
            output[:, :, start:stop] = block.nin_shortcut(around[:, :, first : first + stop - start])
            inner[:, :, start:stop] = _convolution(block.conv1, activate(around), x, start, stop)
        h = self._map(inner)
        activate = _activation(block.norm2, h)
        for start, stop in h.strips():
            added = _convolution(block.conv2, activate(h.around(start, stop)), h, start, stop)
            output[:, :, start:stop] += added.to(self.rest)
        return self._map(output)

    def _attended(self, attention: AttnBlock, h: _Map) -> _Map:
        return self._map(attention(h.rows(0, h.shape[2])).to(self.rest))

    def _convolved(self, x: _Map, conv: nn.Conv2d) -> _Map:
        whole = self._empty(x, conv)
        for start, stop in x.strips():
            whole[:, :, start:stop] = _convolution(conv, x.around(start, stop), x, start, stop)
        return self._map(whole)

    def _kept(self, computed: _Map) -> _Map:
        return self._map(torch.cat([computed.rows(*strip).to(self.rest) for strip in computed.strips()], dim=2))

    def _map(self, whole: Tensor) -> _Map:
        return _Map(lambda start, stop: whole[:, :, start:stop].to(self.device), tuple(whole.shape))

    def _empty(self, like: _Map, conv: nn.Conv2d) -> Tensor:
        batch, _, height, width = like.shape
        return torch.empty(batch, conv.out_channels, height, width, dtype=conv.weight.dtype, device=self.rest)


def _upsampled(x: _Map, conv: nn.Conv2d) -> _Map:
    """Twice as high and wide, and convolved; see `Upsample`."""
    batch, _, height, width = x.shape

    def rows(start: int, stop: int) -> Tensor:
        first, last = max(start - 1, 0) // 2, min(stop // 2 + 1, height)
        doubled = upsample_nearest(x.rows(first, last))
        doubled = doubled[:, :, max(start - 1, 0) - 2 * first : min(stop + 1, 2 * height) - 2 * first]
        return F.conv2d(F.pad(doubled, (1, 1, int(start == 0), int(stop == 2 * height))), conv.weight, conv.bias)

    return _Map(rows, (batch, conv.out_channels, 2 * height, 2 * width))


def _downsampled(x: _Map, conv: nn.Conv2d) -> _Map:
    """Half as high and wide; see `Downsample`."""
    batch, _, height, width = x.shape

    def rows(start: int, stop: int) -> Tensor:
        above = x.rows(2 * start, min(2 * stop + 1, height))
        return conv(F.pad(above, (0, 1, 0, int(2 * stop == height))))

    return _Map(rows, (batch, conv.out_channels, height // 2, width // 2))


def _convolution(conv: nn.Conv2d, around: Tensor, x: _Map, start: int, stop: int) -> Tensor:
    """A 3x3 convolution's rows from `start` to below `stop`, of those and their neighbours in `x`."""
    top, bottom = int(start == 0), int(stop == x.shape[2])
    return F.conv2d(F.pad(around, (1, 1, top, bottom)), conv.weight, conv.bias)


def _activation(norm: nn.GroupNorm, x: _Map) -> Callable[[Tensor], Tensor]:
    """What group normalisation over the whole map and SiLU make of any rows of it."""
    count, mean, squares = 0, 0.0, 0.0  # squares of the distances from the mean, merged as Chan et al. (1979) do
    for start, stop in x.strips():
        rows = x.rows(start, stop)
        grouped = rows.reshape(len(rows), norm.num_groups, -1).float()
        variance, its_mean = torch.var_mean(grouped, dim=2, correction=0)
        its_count = grouped.shape[2]
        apart, total = its_mean - mean, count + its_count
        squares = squares + variance * its_count + apart**2 * count * its_count / total
        mean, count = mean + apart * its_count / total, total
    scale = torch.rsqrt(squares / count + norm.eps).repeat_interleave(norm.num_channels // norm.num_groups, dim=1)
    scale = scale * norm.weight.float()
    shift = norm.bias.float() - mean.repeat_interleave(norm.num_channels // norm.num_groups, dim=1) * scale
    scale, shift = scale[:, :, None, None], shift[:, :, None, None]
    return lambda rows: F.silu(torch.addcmul(shift, rows.float(), scale).to(rows.dtype), inplace=True)
