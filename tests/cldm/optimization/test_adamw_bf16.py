"""AdamW with bfloat16 moments beside torch's, and its rounding."""

import copy

import pytest
import torch
from torch import nn

from cldm.optimization.adamw_bf16 import AdamWBF16, rounded_at_random

STEPS = 200


def regression(seed: int = 0) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network, inputs, and what it is to answer."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 4))
    x = torch.randn(256, 16)
    return network, x, 2 * x[:, :4] + torch.randn(256, 4)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, x, y, steps: int = STEPS) -> list[float]:
    losses = []
    for step in range(steps):
        few = slice(32 * (step % 8), 32 * (step % 8 + 1))
        loss = nn.functional.mse_loss(network(x[few]), y[few])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_losses_follow_adamws_within_a_hundredth():
    network, x, y = regression()
    twin = copy.deepcopy(network)
    expected = train(network, torch.optim.AdamW(network.parameters(), lr=3e-3), x, y)
    losses = train(twin, AdamWBF16(twin.parameters(), lr=3e-3), x, y)
    assert losses == pytest.approx(expected, rel=1e-2)
    assert expected[-1] < 0.5 * expected[0], "nothing was learnt, so nothing was compared"


def test_the_first_step_is_adamws():
    network, x, y = regression()
    twin = copy.deepcopy(network)
    train(network, torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.1), x, y, steps=1)
    train(twin, AdamWBF16(twin.parameters(), lr=1e-2, weight_decay=0.1), x, y, steps=1)
    for a, b in zip(twin.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_moments_take_two_bytes_a_number():
    network, x, y = regression()
    optimizer = AdamWBF16(network.parameters())
    train(network, optimizer, x, y, steps=1)
    state = optimizer.state[network[0].weight]
    assert {state[name].dtype for name in ("exp_avg", "exp_avg_sq")} == {torch.bfloat16}


def test_the_second_moment_falls_when_gradients_do():
    weight = nn.Parameter(torch.zeros(10_000))
    optimizer = AdamWBF16([weight], lr=0.0)
    for step in range(101):
        weight.grad = torch.full_like(weight, float(step == 0))
        optimizer.step()
    mean = optimizer.state[weight]["exp_avg_sq"].float().mean().item()
    assert mean == pytest.approx(0.001 * 0.999**100, rel=2e-3)  # to the nearest, it would be 0.001 for ever


def test_rounding_is_right_on_average_and_to_a_neighbour():
    x = torch.full((100_000,), 1.0 + 2**-9)  # a quarter of the way from 1 to the next number, 1 + 2**-7
    rounded = rounded_at_random(x, torch.Generator().manual_seed(0))
    assert set(rounded.unique().tolist()) == {1.0, 1.0 + 2**-7}
    assert (rounded > 1).float().mean().item() == pytest.approx(0.25, abs=0.01)


def test_what_bfloat16_has_is_not_changed():
    x = torch.randn(1000).bfloat16()
    assert torch.equal(rounded_at_random(x.float(), torch.Generator().manual_seed(0)), x)


def test_chance_follows_from_the_seed():
    def weights(seed: int) -> torch.Tensor:
        network, x, y = regression()
        train(network, AdamWBF16(network.parameters(), seed=seed), x, y, steps=20)
        return network[0].weight.detach()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_loaded_state_goes_on_exactly():
    network, x, y = regression()
    optimizer = AdamWBF16(network.parameters())
    train(network, optimizer, x, y, steps=5)
    twin = copy.deepcopy(network)
    resumed = AdamWBF16(twin.parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.state[twin[0].weight]["exp_avg"].dtype == torch.bfloat16
    train(network, optimizer, x, y, steps=5)
    train(twin, resumed, x, y, steps=5)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))


def test_large_and_strided_weights_step_by_chunks_as_whole_ones(monkeypatch):
    def stepped(chunk: int) -> torch.Tensor:
        monkeypatch.setattr("cldm.optimization.adamw_bf16._CHUNK", chunk)
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(7, 6, 3, 3).to(memory_format=torch.channels_last))
        weight.grad = torch.randn(7, 6, 3, 3)
        AdamWBF16([weight]).step()
        return weight.detach()

    torch.testing.assert_close(stepped(60), stepped(10**6), rtol=0, atol=0)
