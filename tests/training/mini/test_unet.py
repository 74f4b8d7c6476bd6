"""What every step of the miniature's training is made of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from ldm.models.diffusion.prediction import eps_and_z
from training.mini.latents import Latents, scenes
from training.mini.text import NEGATIVE_PROMPT
from training.mini.unet import Course

CONFIG = Path(__file__).resolve().parents[3] / "models/cldm_mini.yaml"


class Prompts(nn.Module):
    """A text model that remembers what it was given."""

    def forward(self, prompts: list[str]) -> torch.Tensor:
        self.given = prompts
        return torch.zeros(len(prompts), 77, 128)


@pytest.fixture
def course() -> Course:
    few = scenes(50)
    return Course(OmegaConf.load(CONFIG), Prompts(), Latents(few, torch.randn(len(few), 4, 16, 16), 1.0))


def test_noisy_latents_lead_back_to_clean_ones(course):
    z = course.latents.z[:32]
    x, t, v = course.noisy(z)
    for k in range(len(z)):
        _, clean = eps_and_z(v[k : k + 1], x[k : k + 1], course.abar[t[k]], "v")
        assert torch.allclose(clean[0], z[k], atol=1e-4)


def test_time_steps_are_spread_evenly_over_a_batch(course):
    _, t, _ = course.noisy(course.latents.z[:20])
    gaps = t.sort().values.diff()
    assert gaps.min() >= 49
    assert gaps.max() <= 51


def test_a_tenth_of_the_prompts_is_dropped(course):
    rng = np.random.default_rng(0)
    given = []
    for _ in range(100):
        chosen, z, _ = course.batch(rng, 32)
        assert torch.equal(z, course.latents.z[chosen])
        given += course.text_model.given
    dropped = [prompt for prompt in given if prompt in ("", NEGATIVE_PROMPT)]
    assert len(dropped) / len(given) == pytest.approx(0.1, abs=0.02)
    assert set(dropped) == {"", NEGATIVE_PROMPT}
