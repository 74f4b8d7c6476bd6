"""The posterior against torch.distributions."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ldm.modules.distributions.distributions import DiagonalGaussianDistribution


def parameters() -> torch.Tensor:
    return torch.randn(3, 8, 5, 6, generator=torch.Generator().manual_seed(0))


def test_mean_comes_first_and_log_variance_second():
    p = parameters()
    posterior = DiagonalGaussianDistribution(p)
    assert torch.equal(posterior.mean, p[:, :4])
    assert torch.equal(posterior.mode(), p[:, :4])
    assert torch.equal(posterior.logvar, p[:, 4:])
    torch.testing.assert_close(posterior.std, p[:, 4:].exp().sqrt())


def test_divergence_is_that_of_torch():
    posterior = DiagonalGaussianDistribution(parameters())
    theirs = kl_divergence(Normal(posterior.mean, posterior.std), Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(posterior.kl(), theirs)


def test_divergence_of_the_standard_normal_is_zero():
    assert DiagonalGaussianDistribution(torch.zeros(2, 8, 4, 4)).kl().tolist() == [0, 0]


def test_samples_have_mean_and_spread():
    means, stds = torch.tensor([2.0, -1.0]), torch.tensor([2.0, 0.5])
    p = torch.cat([means, 2 * stds.log()]).view(1, 4, 1, 1).expand(1, 4, 200, 200)
    drawn = DiagonalGaussianDistribution(p).sample(torch.Generator().manual_seed(0))
    assert drawn.shape == (1, 2, 200, 200)
    assert drawn.mean(dim=(0, 2, 3)).tolist() == pytest.approx(means.tolist(), abs=0.03)
    assert drawn.std(dim=(0, 2, 3)).tolist() == pytest.approx(stds.tolist(), rel=0.02)


def test_same_generator_same_sample():
    posterior = DiagonalGaussianDistribution(parameters())
    first, again, other = (posterior.sample(torch.Generator().manual_seed(seed)) for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_log_variance_is_clamped():
    p = torch.zeros(1, 2, 1, 2)
    p[0, 1, 0] = torch.tensor([-100.0, 100.0])
    posterior = DiagonalGaussianDistribution(p)
    assert posterior.logvar.flatten().tolist() == [-30, 20]
    assert torch.isfinite(posterior.kl()).all()
