"""The autoencoder that takes images to latents and back (Rombach et al., arXiv:2112.10752)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules.diffusionmodules.model import Decoder, Encoder
from ldm.modules.diffusionmodules.strips import Strips
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.util import called, check_neutral, parameter_names

_NEUTRAL: Mapping[str, Sequence[Any]] = {
    "attn_type": ("vanilla", "vanilla-xformers"),
    "give_pre_end": (False,),
    "resamp_with_conv": (True,),
    "tanh_out": (False,),
    "use_linear_attn": (False,),
}
"""Keys of the original's ddconfig that ours lacks, and the values under which the original's networks are the same."""


class AutoencoderKL(nn.Module):
    """Encoder, posterior and decoder.

    Args:
        ddconfig: Architecture, the arguments of `Encoder` and `Decoder`; others that published configs may have, such
            as `attn_type`, at the value that changes nothing.
        embed_dim: Channels of the latent.
        lossconfig: Accepted for the sake of published configs; `reconstruction_loss` is the loss there is.
        monitor: Likewise.
        image_key: Likewise.

    Raises:
        ValueError: If `double_z` is false: a posterior has a log-variance; or if `ddconfig` asks for what there is not.
    """

    def __init__(
        self,
        ddconfig: Mapping[str, Any],
        embed_dim: int,
        lossconfig: Mapping[str, Any] | None = None,
        monitor: str | None = None,
        image_key: str = "image",
    ):
        super().__init__()
        if not ddconfig.get("double_z", True):
            raise ValueError("expected double_z: true in ddconfig, since the posterior has a log-variance, got false")
        self.encoder, self.decoder = _encoder_and_decoder(ddconfig)
        self.quant_conv = nn.Conv2d(2 * ddconfig["z_channels"], 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)
        self.downsampling = 2 ** (len(ddconfig["ch_mult"]) - 1)

    @property
    def dtype(self) -> torch.dtype:
        return self.post_quant_conv.weight.dtype

    def encode(self, pixels: Tensor, rest: torch.device | None = None) -> DiagonalGaussianDistribution:
        """The posterior over latents of `pixels`, (b, 3, H, W) in [-1, 1]; latents are not scaled here.

        Args:
            pixels: Where the weights are.
            rest: Work in strips, with whole feature maps kept there; see `Strips`.

        Raises:
            ValueError: If a side is no multiple of the downsampling factor.
        """
        if any(side % self.downsampling for side in pixels.shape[-2:]):
            raise ValueError(f"image sides must be multiples of {self.downsampling}, got {tuple(pixels.shape[-2:])}")
        pixels = pixels.to(self.dtype)
        h = self.encoder(pixels) if rest is None else Strips(pixels.device, rest).encode(self.encoder, pixels)
        return DiagonalGaussianDistribution(self.quant_conv(h.to(pixels.device)))

    def decode(self, z: Tensor, rest: torch.device | None = None) -> Tensor:
        """Pixels (b, 3, H, W) around [-1, 1] of unscaled latents `z` (b, embed_dim, h, w).

        Args:
            z: Where the weights are.
            rest: Work in strips, with whole feature maps and the pixels kept there; see `Strips`.
        """
        h = self.post_quant_conv(z.to(self.dtype))
        return self.decoder(h) if rest is None else Strips(z.device, rest).decode(self.decoder, h)

    def forward(self, pixels: Tensor) -> tuple[Tensor, DiagonalGaussianDistribution]:
        """Reconstruction from a sample of the posterior, and the posterior."""
        posterior = self.encode(pixels)
        return self.decode(posterior.sample()), posterior


def _encoder_and_decoder(ddconfig: Mapping[str, Any]) -> tuple[Encoder, Decoder]:
    """Both, each of the arguments that are its own."""
    network = "AutoencoderKL's ddconfig"
    names = {part: parameter_names(part) for part in (Encoder, Decoder)}
    known = dict.fromkeys(name for of_part in names.values() for name in of_part)
    check_neutral(network, {name: v for name, v in ddconfig.items() if name not in known}, _NEUTRAL, known)
    encoder, decoder = (
        called(part, {name: v for name, v in ddconfig.items() if name in names[part]}, network) for part in names
    )
    return encoder, decoder


def reconstruction_loss(
    pixels: Tensor, reconstruction: Tensor, posterior: DiagonalGaussianDistribution, kl_weight: float = 1e-6
) -> Tensor:
    """Mean absolute plus mean squared error, and the posterior's divergence per pixel; a scalar.

    The absolute error keeps edges sharp, the squared one is what PSNR measures. It has neither perceptual nor
    adversarial part: enough for the miniature's flat shapes, not for photographs.
    """
    error = F.l1_loss(reconstruction, pixels) + F.mse_loss(reconstruction, pixels)
    return error + kl_weight * posterior.kl().mean() / pixels[0].numel()
