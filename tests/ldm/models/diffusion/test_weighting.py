"""min-SNR weights, against diffusers' SNR and the paper's formulas."""

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from ldm.models.diffusion.weighting import min_snr_weight

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_weights_are_the_papers_by_diffusers_snr(gamma):
    t = torch.arange(1000)
    snr = compute_snr(SCHEDULER, t)
    capped = snr.clamp(max=gamma)
    abar = SCHEDULER.alphas_cumprod[t]
    torch.testing.assert_close(min_snr_weight(abar, gamma, "eps"), capped / snr, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(min_snr_weight(abar, gamma, "v"), capped / (snr + 1), rtol=1e-4, atol=1e-7)


def test_at_an_snr_of_one_and_of_nine():
    abar = torch.tensor([0.5, 0.9])  # SNR 1 and 9
    torch.testing.assert_close(min_snr_weight(abar, 5, "eps"), torch.tensor([1.0, 5 / 9]))
    torch.testing.assert_close(min_snr_weight(abar, 5, "v"), torch.tensor([0.5, 0.5]))


def test_where_nothing_is_left_of_the_signal_weights_are_numbers():
    abar = torch.tensor([0.0, 1.0])
    assert min_snr_weight(abar, 5, "eps").tolist() == [1, 0]
    assert min_snr_weight(abar, 5, "v").tolist() == [0, 0]


def test_weighted_errors_of_eps_and_v_are_the_same_error_of_the_clean_latent():
    abar = torch.rand(100, dtype=torch.float64) * 0.98 + 0.01
    z_error = torch.rand(100, dtype=torch.float64)
    eps_error, v_error = z_error * abar / (1 - abar), z_error / (1 - abar)
    torch.testing.assert_close(
        min_snr_weight(abar, 5, "eps") * eps_error, min_snr_weight(abar, 5, "v") * v_error, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("gamma", [0, -1])
def test_a_gamma_that_is_not_positive_is_refused(gamma):
    with pytest.raises(ValueError, match=f"gamma must be positive, got {gamma}"):
        min_snr_weight(torch.tensor([0.5]), gamma, "eps")


def test_an_unknown_parameterization_is_refused():
    with pytest.raises(ValueError, match="parameterization must be one of eps, v, got 'x0'"):
        min_snr_weight(torch.tensor([0.5]), 5, "x0")
