"""How much each time step's error counts in training: min-SNR weighting (Hang et al., arXiv:2303.09556).

SNR = abar / (1 - abar), the signal-to-noise ratio of a noisy latent.
"""

import torch
from torch import Tensor

from ldm.models.diffusion.prediction import PARAMETERIZATIONS


def min_snr_weight(abar: Tensor, gamma: float, parameterization: str) -> Tensor:
    """Weights that cap the errors of time steps with little noise, which are easy and conflict with the others.

    The paper's weight of the clean latent's error is min(SNR, gamma) (section 3.4). An error of eps is that of the
    clean latent times SNR, one of v that times SNR + 1, so the weights are min(SNR, gamma) / SNR and
    min(SNR, gamma) / (SNR + 1).

    Args:
        abar: Cumulative products of (1 - beta) at the time steps, in [0, 1], any shape.
        gamma: Where the SNR is capped, above 0; the paper takes 5.
        parameterization: "eps" or "v".

    Raises:
        ValueError: If gamma is not positive, or the parameterization unknown.
    """
    if gamma <= 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    if parameterization not in PARAMETERIZATIONS:
        raise ValueError(f"parameterization must be one of {', '.join(PARAMETERIZATIONS)}, got {parameterization!r}")
    snr = abar / (1 - abar)
    if parameterization == "eps":
        return (gamma / snr).clamp(max=1)  # 1 at an SNR of 0 as well
    return torch.minimum(abar, gamma * (1 - abar))  # min(SNR, gamma) / (SNR + 1), as 1 / (SNR + 1) = 1 - abar
