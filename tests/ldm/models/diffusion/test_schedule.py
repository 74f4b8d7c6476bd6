"""Noise schedules against their closed forms, the published buffers and diffusers."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from ldm.models.diffusion.schedule import make_beta_schedule, schedule_buffers
from parity import published_names

SD = {"linear_start": 0.00085, "linear_end": 0.0120}


@pytest.mark.parametrize(("ours", "theirs"), [("linear", "scaled_linear"), ("sqrt_linear", "linear")])
def test_schedule_is_diffusers(ours, theirs):
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.0120, beta_schedule=theirs)
    buffers = schedule_buffers(make_beta_schedule(ours, 1000, **SD))
    torch.testing.assert_close(buffers["betas"], scheduler.betas, rtol=1e-5, atol=0)
    torch.testing.assert_close(buffers["alphas_cumprod"], scheduler.alphas_cumprod, rtol=1e-4, atol=0)


def test_linear_is_linear_in_the_square_root():
    betas = make_beta_schedule("linear", 5, 0.01, 0.09)
    assert betas.dtype == np.float64
    np.testing.assert_allclose(betas, [0.01, 0.0225, 0.04, 0.0625, 0.09], rtol=1e-12)
    np.testing.assert_allclose(make_beta_schedule("sqrt_linear", 5, 0.01, 0.09), [0.01, 0.03, 0.05, 0.07, 0.09])


def test_buffers_are_the_published_ones():
    published = {name: spec for name, spec in published_names("control_sd15").items() if "." not in name}
    ours = schedule_buffers(make_beta_schedule("linear", 1000, **SD))
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in ours.items()} == published


def test_buffers_of_two_steps_by_hand():
    b = schedule_buffers(np.array([0.5, 0.2]))  # abar: 0.5, 0.4
    by_hand = {
        "betas": [0.5, 0.2],
        "alphas_cumprod": [0.5, 0.4],
        "alphas_cumprod_prev": [1.0, 0.5],
        "sqrt_alphas_cumprod": [0.5**0.5, 0.4**0.5],
        "sqrt_one_minus_alphas_cumprod": [0.5**0.5, 0.6**0.5],
        "log_one_minus_alphas_cumprod": [np.log(0.5), np.log(0.6)],
        "sqrt_recip_alphas_cumprod": [2**0.5, 2.5**0.5],
        "sqrt_recipm1_alphas_cumprod": [1.0, 1.5**0.5],
        "posterior_variance": [0.0, 0.2 * 0.5 / 0.6],
        "posterior_log_variance_clipped": [np.log(1e-20), np.log(0.2 * 0.5 / 0.6)],
        "posterior_mean_coef1": [1.0, 0.2 * 0.5**0.5 / 0.6],
        "posterior_mean_coef2": [0.0, 0.5 * 0.8**0.5 / 0.6],
        "logvar": [0.0, 0.0],
    }
    assert b.keys() == by_hand.keys()
    for name, values in by_hand.items():
        np.testing.assert_allclose(b[name].numpy(), values, rtol=1e-6, err_msg=name)


def test_posterior_is_that_of_two_normal_distributions():
    b = {k: v.double() for k, v in schedule_buffers(make_beta_schedule("linear", 1000, **SD)).items()}
    t = torch.tensor([1, 10, 500, 999])
    prior_precision = 1 / (1 - b["alphas_cumprod_prev"][t])  # of z_{t-1} given z
    step_precision = (1 - b["betas"][t]) / b["betas"][t]  # of z_{t-1} given z_t
    variance = 1 / (prior_precision + step_precision)
    torch.testing.assert_close(b["posterior_variance"][t], variance, rtol=1e-3, atol=0)
    weight_of_z = variance * prior_precision * b["alphas_cumprod_prev"][t].sqrt()
    torch.testing.assert_close(b["posterior_mean_coef1"][t], weight_of_z, rtol=1e-3, atol=0)
    weight_of_x = variance * step_precision / (1 - b["betas"][t]).sqrt()
    torch.testing.assert_close(b["posterior_mean_coef2"][t], weight_of_x, rtol=1e-3, atol=0)


def test_buffers_have_values_while_a_model_is_built_on_meta():
    with torch.device("meta"):
        buffers = schedule_buffers(make_beta_schedule("linear", 10))
    assert {b.device.type for b in buffers.values()} == {"cpu"}


def test_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="beta_schedule must be linear or sqrt_linear, got 'cosine'"):
        make_beta_schedule("cosine", 1000)
