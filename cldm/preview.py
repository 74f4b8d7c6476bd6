"""A picture as it forms: colours of a latent without its decoder, by a linear map.

A latent's channels are nearly a linear function of the colours under them, and the reverse. The map is fitted once to
the model's own autoencoder by least squares, on a picture of random colours, so it needs no constants of a certain
model, and costs next to nothing at each step.
"""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from cldm.cldm import ControlLDM

_BLOCKS = 16  # a side, of random colours; 16 pixels of latent at Stable Diffusion's eight pixels each
_SEED = 0


class LatentColours:
    """Shows latents of a model as small pictures.

    Args:
        model: Its autoencoder encodes one small picture.
    """

    @torch.no_grad()
    def __init__(self, model: ControlLDM) -> None:
        autoencoder = model.first_stage_model
        side = autoencoder.downsampling
        device = next(autoencoder.parameters()).device
        colours = _colours().to(device)
        pixels = colours.repeat_interleave(2 * side, dim=2).repeat_interleave(2 * side, dim=3)
        z = model.scale_factor * autoencoder.encode(pixels).mode().float()
        inner = rearrange(z, "1 c (h a) (w b) -> (h w) a b c", a=2, b=2).mean(dim=(1, 2))  # edges of blocks cancel out
        wanted = rearrange(colours, "1 c h w -> (h w) c")
        with_ones = torch.cat([inner, torch.ones_like(inner[:, :1])], dim=1).cpu().double()
        self._map = torch.linalg.lstsq(with_ones, wanted.cpu().double()).solution.float()  # (channels + 1, 3)

    def __call__(self, z: Tensor) -> list[np.ndarray]:
        """Pictures of scaled latents (b, c, h, w): uint8 RGB, (h, w, 3) each."""
        pixels = torch.einsum("bchw,cd->bhwd", z.float().cpu(), self._map[:-1]) + self._map[-1]
        return list(((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy())


def _colours() -> Tensor:
    """Random colours in [-1, 1], (1, 3, h, w), neighbours alike as in pictures."""
    rng = np.random.default_rng(_SEED)
    coarse = rng.uniform(-1, 1, (1, 3, _BLOCKS // 4, _BLOCKS // 4)).repeat(4, axis=2).repeat(4, axis=3)
    fine = rng.uniform(-1, 1, (1, 3, _BLOCKS, _BLOCKS))
    return torch.from_numpy((0.7 * coarse + 0.3 * fine).astype(np.float32))
