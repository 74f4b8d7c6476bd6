"""The autoencoder's posterior over latents."""

from functools import cached_property

import torch
from torch import Tensor


class DiagonalGaussianDistribution:
    """A normal distribution with independent elements.

    Args:
        parameters: Mean and log-variance side by side, (b, 2c, h, w). The log-variance is clamped to [-30, 20].
    """

    def __init__(self, parameters: Tensor):
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)

    @cached_property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.logvar)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A latent, (b, c, h, w); `generator` must be on the distribution's device."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + self.std * noise

    def mode(self) -> Tensor:
        """The likeliest latent, (b, c, h, w)."""
        return self.mean

    def kl(self) -> Tensor:
        """Kullback-Leibler divergence from the standard normal in nats, summed over each item, (b,)."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar).sum(dim=(1, 2, 3))
