"""What all samplers share: noise, guidance, masks, what is told and returned on the way, messages."""

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from denoisers import SHAPE, ExactModel, Wobbly, start
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.dpm_solver import DPMSolverSampler
from ldm.models.diffusion.prediction import add_noise, eps_and_z
from ldm.models.diffusion.sampler import standard_normal
from ldm.models.diffusion.uni_pc import UniPCSampler

SAMPLERS = [DDIMSampler, DPMSolverSampler, UniPCSampler]
ETAS = [(DDIMSampler, 0.0), (DDIMSampler, 0.7), (DPMSolverSampler, 0.0), (UniPCSampler, 0.0)]


def test_noise_is_standard_normal_and_the_same_for_the_same_seeds():
    generators = [torch.Generator().manual_seed(k) for k in (3, 4)]
    noise = standard_normal((2, 4, 64, 64), generators, torch.device("cpu"))
    assert abs(noise.mean().item()) < 0.02
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    again = standard_normal((2, 4, 64, 64), [torch.Generator().manual_seed(k) for k in (3, 4)], torch.device("cpu"))
    np.testing.assert_array_equal(noise, again)
    assert standard_normal((2, 3), None, torch.device("cpu")).shape == (2, 3)


@pytest.mark.parametrize(("sampler", "eta"), ETAS)
def test_an_image_depends_on_its_own_generator_alone(sampler, eta):
    def sample(*seeds: int) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return sampler(Wobbly("eps")).sample(4, len(seeds), SHAPE, eta=eta, generators=generators, verbose=False)[0]

    together, alone = sample(5, 6, 7), sample(6)
    torch.testing.assert_close(together[1:2], alone)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_guidance_of_a_scale_leads_to_its_model(sampler):
    """Ideal denoisers of two points, guided, are together that of a third point."""

    class Two(ExactModel):
        def apply_model(self, x: Tensor, t: Tensor, cond) -> Tensor:
            self.mean = cond["c_crossattn"][0]
            return super().apply_model(x, t, cond)

    far, near = torch.full((2, 1, 1, 1), 2.0), torch.full((2, 1, 1, 1), 1.0)
    x, _ = sampler(Two(0.0, 0.0)).sample(
        10,
        2,
        SHAPE,
        {"c_crossattn": [far]},
        x_T=start(),
        verbose=False,
        unconditional_guidance_scale=3.0,
        unconditional_conditioning={"c_crossattn": [near]},
    )
    assert x.mean().item() == pytest.approx(1 + 3 * (2 - 1), abs=0.05)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_conditions_are_joined_and_prepared_once_and_not_at_every_step(sampler):
    model, prepared = ExactModel(0.0, 1.0), []
    model.prepare_condition = lambda cond: prepared.append(cond) or {**cond, "prepared": True}
    apply = model.apply_model
    model.apply_model = lambda x, t, cond: apply(x, t, {**cond, "seen": cond["prepared"]})
    cond, uncond = {"c_crossattn": [torch.zeros(2, 7, 4)]}, {"c_crossattn": [torch.ones(2, 7, 4)]}
    sampler(model).sample(
        5, 2, SHAPE, cond, unconditional_guidance_scale=2.0, unconditional_conditioning=uncond, verbose=False
    )
    (joined,) = prepared
    assert torch.equal(joined["c_crossattn"][0], torch.cat([uncond["c_crossattn"][0], cond["c_crossattn"][0]]))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_mask_keeps_what_is_given(sampler):
    known, mask = torch.full((2, *SHAPE), 4.0), torch.zeros(2, 1, 4, 4)
    mask[..., :2] = 1
    generators = [torch.Generator().manual_seed(k) for k in range(2)]
    model = ExactModel(0.0, 0.0)
    blended = []
    apply = model.apply_model
    model.apply_model = lambda x, t, cond: blended.append(x) or apply(x, t, cond)
    sampler(model).sample(50, 2, SHAPE, mask=mask, x0=known, x_T=start(), generators=generators, verbose=False)
    last = blended[-1]
    assert last[..., :2].mean().item() == pytest.approx(4.0, abs=0.15)
    assert last[..., 2:].abs().max().item() < 0.8


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_returned_along_the_way(sampler):
    model, steps, clean = ExactModel(0.0, 1.0), [], []
    x, passed = sampler(model).sample(
        7,
        2,
        SHAPE,
        x_T=start(),
        log_every_t=3,
        callback=steps.append,
        img_callback=lambda z, i: clean.append((i, z)),
        verbose=False,
    )
    assert steps == [i for i, _ in clean] == list(range(7))
    assert torch.equal(passed["x_inter"][0], start())
    assert torch.equal(passed["x_inter"][-1], x)
    assert torch.equal(passed["pred_x0"][-1], clean[-1][1])
    assert len(passed["x_inter"]) == len(passed["pred_x0"]) == 1 + 3  # at the start, and after steps 0, 3 and 6


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_the_caller_owns_is_not_changed(sampler):
    noise, cond = start(), {"c_crossattn": [torch.zeros(2, 7, 4)]}
    sampler(ExactModel(0.0, 1.0)).sample(3, 2, SHAPE, cond, x_T=noise, verbose=False)
    assert torch.equal(noise, start())
    assert list(cond) == ["c_crossattn"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_progress_is_shown_unless_it_is_not_wanted(sampler, capsys):
    sampler(ExactModel(0.0, 1.0)).sample(3, 1, SHAPE, verbose=False)
    assert capsys.readouterr().err == ""
    sampler(ExactModel(0.0, 1.0)).sample(3, 1, SHAPE)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert sampler.name in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x_T": torch.zeros(1, 4, 4, 4)}, r"x_T must have the shape \(2, 4, 4, 4\), got \(1, 4, 4, 4\)"),
        ({"mask": torch.ones(2, 1, 4, 4)}, "x0 goes with mask or skip"),
        ({"x0": torch.ones(2, 4, 4, 4)}, "x0 goes with mask or skip"),
        ({"generators": [torch.Generator()]}, "expected a generator for each of 2 images, got 1"),
    ],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_wrong_arguments_are_named(sampler, arguments, message):
    with pytest.raises(ValueError, match=message):
        sampler(ExactModel(0.0, 1.0)).sample(**{"S": 3, "batch_size": 2, "shape": SHAPE, "verbose": False, **arguments})


NEUTRAL = {
    "temperature": 1.0,
    "noise_dropout": 0.0,
    "score_corrector": None,
    "corrector_kwargs": None,
    "quantize_x0": False,
    "normals_sequence": None,
    "dynamic_threshold": None,
    "ucg_schedule": None,
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_arguments_of_the_original_change_nothing_where_they_ask_for_nothing(sampler):
    given = {"S": 4, "batch_size": 2, "shape": SHAPE, "x_T": start(), "verbose": False}
    plain, _ = sampler(Wobbly("eps")).sample(**given)
    assert torch.equal(sampler(Wobbly("eps")).sample(**given, **NEUTRAL, log_every_t=100)[0], plain)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.8),
        ("noise_dropout", 0.1),
        ("score_corrector", "one"),
        ("quantize_x0", True),
        ("dynamic_threshold", 0.995),
        ("ucg_schedule", [9.0, 9.0]),
    ],
)
def test_arguments_of_the_original_that_ask_for_something_are_named(name, value):
    with pytest.raises(ValueError, match=re.escape(f"{name} must be {NEUTRAL[name]}") + ".*" + re.escape(repr(value))):
        DDIMSampler(ExactModel(0.0, 1.0)).sample(3, 2, SHAPE, verbose=False, **{name: value})


def test_arguments_that_nobody_knows_are_an_error():
    with pytest.raises(TypeError, match=r"sample\(\) got an unexpected keyword argument 'temprature'"):
        DDIMSampler(ExactModel(0.0, 1.0)).sample(3, 2, SHAPE, verbose=False, temprature=1.0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_takes_the_place_of_the_first_steps(sampler):
    z, noise = 0.5 * start().flip(0), start()
    model, calls = ExactModel(0.0, 1.0), []
    x, _ = sampler(model).sample(
        10, 2, SHAPE, x0=z, skip=6, x_T=noise, verbose=False, img_callback=lambda z, i: calls.append(i)
    )
    times = sampler(model).timesteps(10)[6:]
    assert model.times == times[:-1]
    assert calls == [0, 1, 2, 3]
    abars = model.alphas_cumprod[times]
    first = add_noise(z, noise, abars[0])
    *_, (expected, _) = sampler(model).solve(_exact_look(model, abars), first, abars, 0.0, lambda: noise)
    torch.testing.assert_close(x, expected)


def _exact_look(model, abars):
    def look(x, i):
        t = torch.full((len(x),), (model.alphas_cumprod == abars[i]).nonzero().item())
        return x, *eps_and_z(model.apply_model(x, t, {}), x, abars[i], "eps")

    return look


@pytest.mark.parametrize("skip", [-1, 10])
def test_not_all_steps_can_be_left_out(skip):
    with pytest.raises(ValueError, match=f"skip must be at least 0 and below the number of steps, 10, got {skip}"):
        SAMPLERS[0](ExactModel(0.0, 1.0)).sample(10, 2, SHAPE, x0=start(), skip=skip, verbose=False)
