"""Draws: their distributions, and that they follow from seed, epoch and index alone."""

import pytest
import torch

from ldm.models.diffusion.draws import Draws

LIKE = torch.empty(3, 4, 8, 8)


def everything(draws: Draws) -> list[torch.Tensor]:
    like = LIKE[:1].expand(len(draws.indices), -1, -1, -1)
    return [draws.timesteps(1000), draws.dropped(0.5), draws.posterior(like), draws.noise(like)]


def test_a_samples_draws_do_not_depend_on_its_batch():
    together = everything(Draws(5, 2, [7, 1, 4]))
    torch.manual_seed(1)
    alone = [everything(Draws(5, 2, [index])) for index in (4, 7, 1)]
    for k, drawn in enumerate(together):
        torch.testing.assert_close(drawn, torch.cat([alone[1][k], alone[2][k], alone[0][k]]), rtol=0, atol=0)


@pytest.mark.parametrize("other", [Draws(6, 2, range(64)), Draws(5, 3, range(64)), Draws(5, 2, range(64, 128))])
def test_another_seed_epoch_or_sample_draws_otherwise(other):
    pairs = zip(everything(Draws(5, 2, range(64))), everything(other), strict=True)
    assert all(not torch.equal(a, b) for a, b in pairs)


def test_what_is_drawn_for_one_thing_is_not_drawn_for_another():
    draws = Draws(0, 0, [0, 1, 2])
    posterior, noise = draws.posterior(LIKE), draws.noise(LIKE)
    assert torch.corrcoef(torch.stack([posterior.flatten(), noise.flatten()]))[0, 1].abs() < 0.15
    assert torch.equal(noise, draws.noise(LIKE)), "in whatever order, and however often, they are asked for"


def test_time_steps_are_uniform_and_noise_is_normal():
    draws = Draws(0, 0, range(20_000))
    t = draws.timesteps(1000)
    assert (t.dtype, t.min().item(), t.max().item()) == (torch.int64, 0, 999)
    assert t.float().mean().item() == pytest.approx(499.5, abs=8)
    noise = draws.noise(torch.empty(20_000, 5))
    assert noise.dtype == torch.float32
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(1, abs=0.01)


def test_an_offset_moves_whole_channels_and_nothing_else():
    draws = Draws(0, 0, range(2000))
    like = torch.empty(2000, 4, 2, 2)
    moved = draws.noise(like, offset=0.5) - draws.noise(like)
    torch.testing.assert_close(moved, moved[:, :, :1, :1].expand_as(moved))
    assert moved[:, :, 0, 0].std().item() == pytest.approx(0.5, rel=0.03)
    assert torch.equal(draws.noise(like, offset=0.0), draws.noise(like))
    alone = Draws(0, 0, [7]).noise(like[:1], offset=0.5)
    assert torch.equal(draws.noise(like, offset=0.5)[7], alone[0])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_asked_share_is_dropped(share):
    dropped = Draws(0, 0, range(10_000)).dropped(share)
    assert dropped.dtype == torch.bool
    assert dropped.float().mean().item() == pytest.approx(share, abs=0.02 if 0 < share < 1 else 0)


def test_a_larger_share_drops_the_same_ones_and_more():
    draws = Draws(0, 0, range(100))
    assert not (draws.dropped(0.2) & ~draws.dropped(0.5)).any()


def test_fresh_draws_come_from_torchs_generator():
    torch.manual_seed(3)
    first, second = Draws.fresh(4), Draws.fresh(4)
    torch.manual_seed(3)
    assert Draws.fresh(4) == first != second


@pytest.mark.parametrize(("seed", "epoch", "index"), [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_negative_numbers_are_refused(seed, epoch, index):
    with pytest.raises(ValueError, match="seed, epoch and indices must be 0 or more"):
        Draws(seed, epoch, [index])
