"""Conversions between what networks predict, and guidance."""

import pytest
import torch
from torch import Tensor

from ldm.models.diffusion.prediction import add_noise, eps_and_z, guided, join_conditions, velocity

ABAR = torch.tensor([0.9991, 0.5, 0.0047]).view(3, 1, 1, 1)


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z, eps = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, generator=generator)
    return z, eps


def test_conversions_by_hand():
    z, eps, abar = torch.tensor([3.0]), torch.tensor([5.0]), torch.tensor(0.64)
    assert add_noise(z, eps, abar).item() == pytest.approx(0.8 * 3 + 0.6 * 5)
    assert velocity(z, eps, abar).item() == pytest.approx(0.8 * 5 - 0.6 * 3)


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_noise_and_latent_come_back_from_what_they_make(parameterization):
    z, eps = pair()
    x = add_noise(z, eps, ABAR.double())
    output = eps if parameterization == "eps" else velocity(z, eps, ABAR.double())
    found_eps, found_z = eps_and_z(output, x, ABAR.double(), parameterization)
    torch.testing.assert_close(found_eps, eps)
    torch.testing.assert_close(found_z, z)


def test_velocity_is_the_derivative_along_the_circle():
    z, eps = pair()
    angle = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)  # abar = cos(angle)^2

    def x(phi: Tensor) -> Tensor:
        return add_noise(z, eps, phi.cos() ** 2)

    _, derivative = torch.autograd.functional.jvp(x, angle, torch.ones_like(angle))
    torch.testing.assert_close(velocity(z, eps, angle.detach().cos() ** 2), derivative)


def test_unknown_parameterization_is_named():
    z, eps = pair()
    with pytest.raises(ValueError, match="parameterization must be one of eps, v, got 'x0'"):
        eps_and_z(eps, z, ABAR, "x0")


class Recorder:
    """A model whose output is the mean of its tokens, plus the time step."""

    parameterization = "eps"
    alphas_cumprod = torch.linspace(0.9, 0.1, 10)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def apply_model(self, x: Tensor, t: Tensor, cond) -> Tensor:
        self.batches.append(len(x))
        value = cond["c_crossattn"][0].mean(dim=(1, 2)) + t
        return value[:, None, None, None].expand_as(x)


def tokens(*values: float) -> dict[str, list[Tensor]]:
    return {"c_crossattn": [torch.tensor(values, dtype=torch.float32)[:, None, None].expand(-1, 7, 4)]}


@pytest.mark.parametrize(
    ("scale", "expected"), [(0.0, [1.0, 2.0]), (1.0, [3.0, 5.0]), (9.0, [1 + 9 * 2.0, 2 + 9 * 3.0])]
)
def test_guidance_moves_away_from_the_unconditional_output(scale, expected):
    model, x = Recorder(), torch.zeros(2, 4, 8, 8)
    output = guided(model, tokens(3, 5), tokens(1, 2), scale)(x, torch.tensor([0, 0]))
    torch.testing.assert_close(output, torch.tensor(expected)[:, None, None, None].expand_as(x))


def test_every_latent_keeps_its_time_step():
    model, x = Recorder(), torch.zeros(2, 4, 8, 8)
    output = guided(model, tokens(3, 5), tokens(1, 2), 2.0)(x, torch.tensor([10, 20]))
    assert output[:, 0, 0, 0].tolist() == [10 + 1 + 2 * 2, 20 + 2 + 2 * 3]


def test_one_pass_where_both_conditions_have_the_same_parts():
    model, x, t = Recorder(), torch.zeros(2, 4, 8, 8), torch.tensor([0, 0])
    guided(model, tokens(3, 5), tokens(1, 2), 2.0)(x, t)
    assert model.batches == [4]
    guided(model, {**tokens(3, 5), "c_concat": [x]}, {**tokens(1, 2), "c_concat": None}, 2.0)(x, t)
    assert model.batches == [4, 2, 2]


@pytest.mark.parametrize(("uncond", "scale"), [(None, 9.0), (tokens(1, 2), 1.0)])
def test_no_guidance_is_one_plain_pass(uncond, scale):
    model, x = Recorder(), torch.zeros(2, 4, 8, 8)
    output = guided(model, tokens(3, 5), uncond, scale)(x, torch.tensor([0, 0]))
    assert output[:, 0, 0, 0].tolist() == [3, 5]
    assert model.batches == [2]


def test_joined_conditions_put_the_first_first():
    scales = [1.0, 0.5]
    joined = join_conditions({**tokens(1), "control_scales": scales}, {**tokens(2), "control_scales": scales})
    assert joined is not None
    assert joined["c_crossattn"][0][:, 0, 0].tolist() == [1, 2]
    assert joined["control_scales"] == scales


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (tokens(1), {**tokens(1), "c_concat": [torch.zeros(1)]}),
        ({**tokens(1), "control_scales": [1.0]}, {**tokens(1), "control_scales": [0.5]}),
        ({"c_crossattn": [torch.zeros(1, 7, 4)]}, {"c_crossattn": [torch.zeros(1, 14, 4)]}),
        ({"c_crossattn": [torch.zeros(1, 7, 4)]}, {"c_crossattn": [torch.zeros(1, 7, 4)] * 2}),
        ({"c_concat": None}, {"c_concat": [torch.zeros(1)]}),
    ],
)
def test_conditions_of_different_parts_are_not_joined(first, second):
    assert join_conditions(first, second) is None
    assert join_conditions(second, first) is None
