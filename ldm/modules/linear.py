"""A linear layer that takes the faster of PyTorch's two matrix products on CPUs."""

import platform

import torch
from torch import Tensor, nn

from ldm.modules.convolution import conv2d

_ONEDNN = torch.backends.mkldnn.is_available() and platform.machine().lower() in ("x86_64", "amd64")

_FEWEST_PRODUCTS = 2**26
"""Of numbers, in a layer's matrix product, for which a convolution is worth its preparation."""


class Linear(nn.Linear):
    """`nn.Linear` with the same parameters, of which large float32 ones are 1x1 convolutions on x86 CPUs.

    PyTorch multiplies float32 matrices by MKL there, which does not use all that other makers' processors can do, and
    convolves by oneDNN, which does: 1.5 to 2.4 times as fast on an AMD EPYC that computes 512 bits at once, forwards
    and backwards; up to 1.2 times on one that takes them in halves. Small products are left to `nn.Linear`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (..., in_features) to (..., out_features)."""
        in_float32 = x.dtype == self.weight.dtype == torch.float32
        is_large = x.numel() * self.out_features >= _FEWEST_PRODUCTS
        if not (_ONEDNN and x.device.type == "cpu" and in_float32 and is_large):
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
