"""A linear layer that takes the faster of PyTorch's two matrix products on CPUs."""

import platform

import torch
from torch import Tensor, nn

from ldm.modules.convolution import conv2d

_ONEDNN = torch.backends.mkldnn.is_available() and platform.machine().lower() in ("x86_64", "amd64")

_FEWEST_ROWS = 128


class Linear(nn.Linear):
    """`nn.Linear` for many rows at once, with the same parameters, computed as a 1x1 convolution on x86 CPUs.

    PyTorch multiplies float32 matrices by MKL there, which does not use all that other makers' processors can do, and
    convolves by oneDNN, which does: 1.5 to 2.4 times as fast on an AMD EPYC with AVX-512, forwards and backwards. For
    few rows `nn.Linear` is faster.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (..., in_features) to (..., out_features)."""
        in_float32 = x.dtype == self.weight.dtype == torch.float32
        if not (_ONEDNN and x.device.type == "cpu" and in_float32 and x.numel() >= _FEWEST_ROWS * self.in_features):
            return super().forward(x)
        rows = x.reshape(1, -1, 1, self.in_features).permute(0, 3, 1, 2)  # a column of pixels, channels last
        y = conv2d(rows, self.weight[:, :, None, None], self.bias)
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)


def with_own_linear(network: nn.Module) -> nn.Module:
    """The network of another library, its plain linear layers made `Linear`s, which have the same parameters."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
    return network
