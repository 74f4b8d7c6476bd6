"""The embedding of time steps against its closed form and diffusers."""

import math

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from ldm.modules.diffusionmodules.util import timestep_embedding


def test_closed_form():
    t, dim = torch.tensor([0, 1, 999]), 6
    expected = [[f(s * 10000 ** (-i / 3)) for f in (math.cos, math.sin) for i in range(3)] for s in t.tolist()]
    torch.testing.assert_close(timestep_embedding(t, dim), torch.tensor(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dim", [32, 320, 33])
def test_embedding_is_diffusers(dim):
    t = torch.tensor([0, 1, 17, 500, 999])
    theirs = get_timestep_embedding(t, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    ours = timestep_embedding(t, dim)
    assert (ours.shape, ours.dtype) == ((5, dim), torch.float32)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_period_can_be_given():
    torch.testing.assert_close(
        timestep_embedding(torch.tensor([50]), 4, max_period=100.0),
        torch.tensor([[math.cos(50), math.cos(5), math.sin(50), math.sin(5)]]),
    )


def test_fractions_lie_between_their_neighbours():
    low, middle, high = timestep_embedding(torch.tensor([100.0, 100.5, 101.0]), 320)[:, -1]
    assert low < middle < high
