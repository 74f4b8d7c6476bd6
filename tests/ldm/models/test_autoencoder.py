"""The autoencoder against golden outputs and diffusers, and its loss."""

import copy

import pytest
import torch
from diffusers import AutoencoderKL as Theirs
from torch import Tensor, nn

import tiny
from diffusers_names import autoencoder_names, copy_weights, random_weights
from ldm.models.autoencoder import AutoencoderKL, reconstruction_loss
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.util import instantiate_from_config
from parity import assert_close, fill_module, golden

DDCONFIG = {
    "z_channels": 3,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 8,
    "ch_mult": [1, 2, 3],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
    "num_groups": 4,
}


def small(**changes) -> AutoencoderKL:
    model = AutoencoderKL(ddconfig={**DDCONFIG, **changes}, embed_dim=3).eval()
    random_weights(model, seed=0)
    return model


def images(count: int = 2, height: int = 24, width: int = 40) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_encoding_and_decoding_are_the_golden_ones():
    g = golden("tiny_vae")
    model = instantiate_from_config(tiny.AUTOENCODER).eval()
    fill_module(model, "first_stage_model.")
    posterior = model.encode(torch.from_numpy(g["image"]))
    assert_close(posterior.mean, g["mean"], "mean")
    assert_close(posterior.logvar, g["logvar"], "log-variance")
    assert_close(model.decode(torch.from_numpy(g["mean"])), g["decoded"], "decoded")


@torch.no_grad()
@pytest.mark.parametrize(("blocks", "attending"), [(1, []), (2, []), (2, [16])])
def test_encoding_and_decoding_are_diffusers(blocks, attending):
    ours = small(num_res_blocks=blocks, attn_resolutions=attending)
    kinds = ["", "Attn" if attending else "", ""]  # of 32 pixels, the second resolution has 16
    theirs = Theirs(
        down_block_types=[f"{kind}DownEncoderBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpDecoderBlock2D" for kind in kinds],
        block_out_channels=[8, 16, 24],
        layers_per_block=blocks,
        latent_channels=3,
        norm_num_groups=4,
    ).eval()
    copy_weights(ours, theirs, autoencoder_names(theirs))
    posterior, expected = ours.encode(images()), theirs.encode(images()).latent_dist
    assert posterior.mean.shape == (2, 3, 6, 10)
    assert_close(posterior.mean, expected.mean, "mean")
    assert_close(posterior.logvar, expected.logvar, "log-variance")
    assert_close(ours.decode(expected.mean), theirs.decode(expected.mean).sample, "decoded")


@torch.no_grad()
def test_forward_decodes_a_sample_of_the_posterior():
    model = small()
    torch.manual_seed(3)
    reconstruction, posterior = model(images())
    torch.manual_seed(3)
    torch.testing.assert_close(reconstruction, model.decode(posterior.sample()))
    assert reconstruction.shape == images().shape


def test_precision_is_that_of_the_weights():
    model = copy.deepcopy(small()).to(torch.bfloat16)
    assert model.dtype == torch.bfloat16
    with torch.no_grad():
        posterior = model.encode(images())
        assert posterior.mean.dtype == model.decode(posterior.mode().float()).dtype == torch.bfloat16


def test_keys_of_published_configs_are_accepted():
    model = AutoencoderKL(
        ddconfig={**DDCONFIG, "double_z": True},
        embed_dim=4,
        lossconfig={"target": "torch.nn.Identity"},
        monitor="val/rec_loss",
        image_key="jpg",
    )
    assert isinstance(model.quant_conv, nn.Conv2d)
    assert (model.quant_conv.out_channels, model.post_quant_conv.in_channels) == (8, 4)


def flat(value: float) -> Tensor:
    return torch.full((2, 3, 4, 4), value)


def standard_posterior() -> DiagonalGaussianDistribution:
    return DiagonalGaussianDistribution(torch.zeros(2, 6, 2, 2))


def test_loss_of_a_perfect_reconstruction_from_a_standard_normal_is_zero():
    assert reconstruction_loss(flat(0.3), flat(0.3), standard_posterior(), kl_weight=1.0).item() == 0


def test_loss_is_the_absolute_and_the_squared_error():
    loss = reconstruction_loss(flat(0.5), flat(0.2), standard_posterior())
    assert loss.item() == pytest.approx(0.3 + 0.09)


def test_divergence_is_counted_per_pixel_value():
    posterior = DiagonalGaussianDistribution(torch.cat([torch.full((2, 3, 2, 2), 2.0), torch.zeros(2, 3, 2, 2)], dim=1))
    nats = 0.5 * 2.0**2 * 12  # of the 12 elements of a latent
    loss = reconstruction_loss(flat(0.0), flat(0.0), posterior, kl_weight=0.25)
    assert loss.item() == pytest.approx(0.25 * nats / 48)


def test_loss_teaches_to_reconstruct():
    torch.manual_seed(0)
    model = AutoencoderKL(ddconfig={**DDCONFIG, "ch_mult": [1, 2]}, embed_dim=3)
    pixels = images(4, 8, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        reconstruction, posterior = model(pixels)
        loss = reconstruction_loss(pixels, reconstruction, posterior)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(("height", "width"), [(24, 42), (25, 40)])
def test_sides_that_cannot_be_halved_are_named(height, width):
    with pytest.raises(ValueError, match=rf"image sides must be multiples of 4, got \({height}, {width}\)"):
        small().encode(images(1, height, width))


def test_a_posterior_without_log_variance_is_refused():
    with pytest.raises(ValueError, match="expected double_z: true in ddconfig"):
        small(double_z=False)


@pytest.mark.parametrize("attention", ["vanilla", "vanilla-xformers"])
def test_the_originals_other_keys_are_accepted_where_they_ask_for_nothing(attention):
    others = {
        "attn_type": attention,
        "give_pre_end": False,
        "resamp_with_conv": True,
        "tanh_out": False,
        "use_linear_attn": False,
    }
    model, plain = small(double_z=True, dropout=0, **others), small()
    with torch.no_grad():
        assert torch.equal(model.encode(images()).mean, plain.encode(images()).mean)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"attn_type": "linear"},
            'attn_type must be "vanilla" or "vanilla-xformers", as it is built here, got "linear"',
        ),
        ({"tanh_out": True}, "tanh_out must be false, as it is built here, got true"),
        ({"resamp_with_conv": False}, "resamp_with_conv must be true, as it is built here, got false"),
        ({"use_linear_attn": True}, "use_linear_attn must be false, as it is built here, got true"),
        ({"attn_resolution": []}, r"has no parameter attn_resolution, got \[\] for it; is attn_resolutions meant"),
        ({"wings": 2}, "has no parameter wings, got 2 for it; its parameters are ch, .*out_ch.*attn_type"),
    ],
)
def test_what_other_keys_ask_for_and_unknown_ones_are_named(changes, message):
    with pytest.raises(ValueError, match=f"^AutoencoderKL's ddconfig:? {message}"):
        small(**changes)


@pytest.mark.parametrize("name", ["in_channels", "out_ch", "z_channels", "ch_mult"])
def test_a_key_that_is_missing_is_named(name):
    config = {key: value for key, value in DDCONFIG.items() if key != name}
    with pytest.raises(ValueError, match=f"^AutoencoderKL's ddconfig: missing .*'{name}'"):
        AutoencoderKL(ddconfig=config, embed_dim=3)
