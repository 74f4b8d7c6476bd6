"""Strips against the autoencoder's halves as a whole: equal within rounding, whatever the strips' height."""

import pytest
import torch

from diffusers_names import random_weights
from ldm.modules.diffusionmodules import strips
from ldm.modules.diffusionmodules.model import Decoder, Encoder
from ldm.modules.diffusionmodules.strips import Strips

CPU = torch.device("cpu")
STYLES = {
    "levels": {"ch": 32, "ch_mult": [1, 2, 2], "num_res_blocks": 1, "z_channels": 4},
    "attention": {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 2, "z_channels": 3, "attn_resolutions": [16]}
    | {"resolution": 32},
}


@pytest.mark.parametrize("numbers", [1, 2**12, 2**30], ids=["two rows", "some rows", "all rows"])
@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_both_halves_give_what_they_give_as_a_whole(style, numbers, monkeypatch):
    monkeypatch.setattr(strips, "STRIP_NUMBERS", numbers)
    params = STYLES[style]
    decoder, encoder = Decoder(out_ch=3, **params).eval(), Encoder(in_channels=3, **params).eval()
    random_weights(decoder, seed=1)
    random_weights(encoder, seed=2)
    generator = torch.Generator().manual_seed(3)
    z, pixels = torch.randn(2, params["z_channels"], 6, 10, generator=generator), torch.randn(2, 3, 24, 40)
    for half, whole, given in (("decode", decoder, z), ("encode", encoder, pixels)):
        kept = given.clone()
        result = getattr(Strips(CPU, CPU), half)(whole, given)
        assert torch.equal(given, kept)
        torch.testing.assert_close(result, whole(given), rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_a_strip_needs_the_statistics_of_the_whole_map(monkeypatch):
    """Tiles that are normalised each by itself are what this is not: they would be far off."""
    decoder = Decoder(out_ch=3, **STYLES["levels"]).eval()
    random_weights(decoder, seed=1)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    z[..., :4, :] *= 4
    apart = torch.cat([decoder(z[..., :4, :]), decoder(z[..., 4:, :])], dim=2)
    monkeypatch.setattr(strips, "STRIP_NUMBERS", 1)
    ours, whole = Strips(CPU, CPU).decode(decoder, z), decoder(z)
    assert (apart - whole).abs().mean() > 1000 * (ours - whole).abs().mean()


@torch.no_grad()
def test_strips_keep_the_weights_precision():
    decoder = Decoder(out_ch=3, **STYLES["levels"]).eval().bfloat16()
    random_weights(decoder, seed=1)
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(3)).bfloat16()
    result = Strips(CPU, CPU).decode(decoder, z)
    assert result.dtype is torch.bfloat16
    assert (result - decoder(z)).abs().mean() < 0.02 * decoder(z).abs().mean()
