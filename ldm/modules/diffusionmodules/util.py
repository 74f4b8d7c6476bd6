"""The embedding of time steps."""

import math

import torch
from torch import Tensor


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding (Vaswani et al., arXiv:1706.03762), cosines first.

    Args:
        timesteps: (b,), integers or fractions.
        dim: Channels; an odd one ends in zero.
        max_period: Slowest period, in time steps.

    Returns:
        Float32, (b, dim).
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, device=timesteps.device))
    angles = timesteps.float()[:, None] * frequencies
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return torch.nn.functional.pad(embedding, (0, dim - 2 * half))
