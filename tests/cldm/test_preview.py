"""Latents as small pictures."""

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from cldm.model import load_model
from cldm.model_files import MODELS
from cldm.preview import LatentColours
from cldm.shapes import Scene
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution


class LinearAutoencoder(nn.Module):
    """Latents that are a linear function of the mean colour of eight by eight pixels."""

    downsampling = 8

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))

    def encode(self, pixels):
        means = nn.functional.avg_pool2d(pixels, 8)
        z = torch.einsum("dc,bchw->bdhw", self.matrix, means) + 0.5
        return DiagonalGaussianDistribution(torch.cat([z, torch.zeros_like(z)], dim=1))


class Model:
    scale_factor = 0.2

    def __init__(self) -> None:
        self.first_stage_model = LinearAutoencoder()


def test_of_a_linear_autoencoder_the_colours_are_exact():
    model = Model()
    wanted = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1
    z = (
        model.scale_factor
        * model.first_stage_model.encode(wanted.repeat_interleave(8, 2).repeat_interleave(8, 3)).mode()
    )
    shown = LatentColours(model)(z.detach())
    expected = ((wanted + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert len(shown) == 2
    for one, other in zip(shown, expected, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_the_miniatures_shapes_can_be_told_from_their_background():
    control = next(MODELS.glob("control_mini*.safetensors"))
    model = load_model(MODELS / "cldm_mini.yaml", MODELS / "sd_mini.safetensors", control, device="cpu")
    scene = Scene("square", "gold", "navy", (0.5, 0.5), 0.4)
    pixels = torch.from_numpy(scene.image(128)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        (shown,) = LatentColours(model)(model.scale_factor * model.encode_first_stage(pixels).mode())
    assert shown.shape == (16, 16, 3)
    assert shown[8, 8, 0] > shown[1, 1, 0] + 100  # gold has red, navy has none
    assert shown[1, 1, 2] > shown[8, 8, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_latents_of_any_precision_and_values_out_of_range(dtype):
    colours = LatentColours(tiny.control_ldm())
    shown = colours(torch.full((1, 4, 2, 3), 900.0, dtype=dtype))
    assert shown[0].dtype == np.uint8
    assert shown[0].shape == (2, 3, 3)
