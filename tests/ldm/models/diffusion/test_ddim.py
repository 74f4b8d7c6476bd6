"""DDIM against diffusers' scheduler and against distributions whose exact denoiser is known."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from cldm import ddim_hacked
from denoisers import ABAR, PREDICTION_TYPES, SHAPE, STABLE_DIFFUSION, ExactModel, Wobbly, start
from ldm.models.diffusion.ddim import DDIMSampler, ddim_step, ddim_timesteps, standard_normal
from ldm.models.diffusion.prediction import guided


def scheduler(parameterization: str) -> DDIMScheduler:
    return DDIMScheduler(
        **STABLE_DIFFUSION,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type=PREDICTION_TYPES[parameterization],
    )


@pytest.mark.parametrize("steps", [1, 5, 7, 20, 30, 50, 333, 500])
def test_timesteps_are_diffusers(steps):
    theirs = scheduler("eps")
    theirs.set_timesteps(steps)
    assert ddim_timesteps(steps)[::-1] == theirs.timesteps.tolist()


@pytest.mark.parametrize("steps", [*range(1, 101), 333, 334, 500, 501, 999, 1000])
def test_steps_are_as_many_as_asked_for_and_within_the_schedule(steps):
    times = ddim_timesteps(steps)
    assert len(set(times)) == steps
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 999


def test_timesteps_by_hand():
    assert ddim_timesteps(5) == [1, 201, 401, 601, 801]
    assert ddim_timesteps(30)[:3] == [1, 34, 67]
    assert ddim_timesteps(30)[-1] == 958
    assert ddim_timesteps(2, 4) == [1, 3]
    assert ddim_timesteps(4, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_named(steps):
    with pytest.raises(ValueError, match=f"steps must be between 1 and 1000, got {steps}"):
        ddim_timesteps(steps)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 20, 30])
@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_sampling_is_diffusers(parameterization, steps, eta):
    model, theirs = Wobbly(parameterization), scheduler(parameterization)
    generators = [torch.Generator().manual_seed(k) for k in range(2)]
    same_noise = [torch.Generator().manual_seed(k) for k in range(2)]
    ours, _ = DDIMSampler(model).sample(steps, 2, SHAPE, eta=eta, x_T=start(), generators=generators, verbose=False)
    theirs.set_timesteps(steps)
    x = start()
    for t in theirs.timesteps:
        output = model.apply_model(x, t.expand(2), {})
        noise = standard_normal((2, *SHAPE), same_noise, torch.device("cpu")) if eta else None
        x = theirs.step(output, t, x, eta=eta, variance_noise=noise).prev_sample
    assert model.times[:steps] == model.times[steps:] == theirs.timesteps.tolist()
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_a_step_by_hand():
    x, eps = torch.tensor([2.0]), torch.tensor([0.5])
    abar, abar_prev = torch.tensor(0.36), torch.tensor(0.64)
    z = (2 - 0.8 * 0.5) / 0.6
    assert ddim_step(x, eps, abar, abar_prev).item() == pytest.approx(0.8 * z + 0.6 * 0.5)
    sigma = ((1 - 0.64) / (1 - 0.36) * (1 - 0.36 / 0.64)) ** 0.5
    expected = 0.8 * z + (1 - 0.64 - sigma**2) ** 0.5 * 0.5 + sigma * 3
    assert ddim_step(x, eps, abar, abar_prev, 1.0, torch.tensor([3.0])).item() == pytest.approx(expected)


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_a_single_point_is_found_in_any_number_of_steps(parameterization):
    for steps in (1, 4, 30):
        model, passed = ExactModel(2.5, 0.0, parameterization), []
        DDIMSampler(model).sample(
            steps, 2, SHAPE, x_T=start(), verbose=False, img_callback=lambda z, i, passed=passed: passed.append(z)
        )
        assert len(passed) == steps
        for z in passed:
            torch.testing.assert_close(z, torch.full_like(z, 2.5), rtol=0, atol=1e-3)


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_deterministic_samples_converge_to_the_exact_flow(parameterization):
    """Along the flow, (x - sqrt(abar) mean) / std of x stays the same."""
    mean, std, first = 1.5, 0.4, ABAR[0]
    errors = {}
    for steps in (10, 100, 500):
        model = ExactModel(mean, std, parameterization)
        x, _ = DDIMSampler(model).sample(steps, 2, SHAPE, x_T=start(), verbose=False)
        last = ABAR[model.times[0]]
        kept = (start() - last.sqrt() * mean) / (last * std**2 + 1 - last).sqrt()
        exact = first.sqrt() * mean + (first * std**2 + 1 - first).sqrt() * kept
        errors[steps] = (x - exact).abs().max().item()
    assert errors[500] < 0.02
    assert errors[500] < errors[100] / 3 < errors[10] / 9


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_have_the_mean_and_spread_of_the_data(eta):
    generators = [torch.Generator().manual_seed(k) for k in range(16)]
    size, mean, std, last = (16, 4, 16, 16), -1.0, 0.5, ABAR[ddim_timesteps(500)[-1]]
    noise = torch.randn(size, generator=torch.Generator().manual_seed(16))
    x = last.sqrt() * mean + (last * std**2 + 1 - last).sqrt() * noise  # pure noise would have the mean 0
    sampler = DDIMSampler(ExactModel(mean, std))
    x, _ = sampler.sample(500, 16, size[1:], eta=eta, x_T=x, generators=generators, verbose=False)
    assert x.mean().item() == pytest.approx(mean, abs=0.01)
    assert x.std().item() == pytest.approx(std, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"S": 0}, "steps must be between 1 and 1000, got 0"),
        ({"eta": -0.1}, r"eta must be between 0 \(deterministic\) and 1 \(as DDPM\), got -0.1"),
        ({"eta": 1.5}, r"eta must be between 0 .* got 1.5"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DDIMSampler(ExactModel(0.0, 1.0)).sample(
            **{"S": 3, "batch_size": 2, "shape": SHAPE, "verbose": False, **arguments}
        )


def test_a_step_with_eta_needs_noise():
    x, abar = torch.zeros(1), torch.tensor(0.5)
    with pytest.raises(ValueError, match=r"noise must be given where eta is positive, got eta 0\.5 without it"):
        ddim_step(x, x, abar, abar, 0.5)


class Told(Wobbly):
    """A denoiser that hears its condition."""

    def apply_model(self, x: Tensor, t: Tensor, cond) -> Tensor:
        return super().apply_model(x, t, cond) + 0.2 * cond["c_crossattn"][0].mean(dim=(1, 2))[:, None, None, None]


def image_to_image(model: ExactModel, steps: int = 20, eta: float = 0.0, verbose: bool = False) -> DDIMSampler:
    sampler = DDIMSampler(model)
    sampler.make_schedule(ddim_num_steps=steps, ddim_eta=eta, verbose=verbose)
    return sampler


def test_it_has_the_name_that_scripts_import():
    assert ddim_hacked.DDIMSampler is DDIMSampler


@pytest.mark.parametrize("steps", [20, 30, 1000])
def test_latents_are_noised_to_the_level_of_a_step_as_diffusers_do(steps):
    sampler, z, noise = image_to_image(Wobbly("eps"), steps), start(3), start(3).flip(0)
    t = torch.tensor([0, 7, steps - 1])
    expected = scheduler("eps").add_noise(z, noise, torch.tensor([ddim_timesteps(steps)[k] for k in t]))
    torch.testing.assert_close(sampler.stochastic_encode(z, t, noise=noise), expected)


def test_noise_that_is_not_given_is_drawn():
    sampler, z = image_to_image(Wobbly("eps")), torch.zeros(4, 4, 64, 64)
    t = torch.full((4,), 12)
    torch.manual_seed(0)
    first, second = sampler.stochastic_encode(z, t), sampler.stochastic_encode(z, t)
    assert not torch.equal(first, second)
    assert first.std().item() == pytest.approx((1 - ABAR[ddim_timesteps(20)[12]]).sqrt().item(), rel=0.02)


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize(("steps", "t_enc"), [(20, 15), (30, 1), (50, 49)])
@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_an_image_to_an_image_is_diffusers(parameterization, steps, t_enc, eta):
    """Noised to the step of the number t_enc, then led from the one below it, as the original's scripts do."""
    model, theirs, z, calls = Told(parameterization), scheduler(parameterization), 0.5 * start(), []
    cond, uncond = {"c_crossattn": [torch.zeros(2, 7, 4)]}, {"c_crossattn": [torch.ones(2, 7, 4)]}
    sampler = image_to_image(model, steps, eta)
    torch.manual_seed(0)
    x = sampler.stochastic_encode(z, torch.tensor([t_enc] * 2))
    ours = sampler.decode(
        x,
        cond,
        t_enc,
        unconditional_guidance_scale=3.0,
        unconditional_conditioning=uncond,
        callback=calls.append,
    )
    assert calls == list(range(t_enc))
    torch.manual_seed(0)
    predict = guided(model, cond, uncond, 3.0)
    theirs.set_timesteps(steps)
    x = theirs.add_noise(z, torch.randn_like(z), theirs.timesteps[[-1 - t_enc]])
    for t in theirs.timesteps[-t_enc:]:
        noise = torch.randn_like(x) if eta else None
        x = theirs.step(predict(x, t.expand(2)), t, x, eta=eta, variance_noise=noise).prev_sample
    assert model.times[:t_enc] == model.times[t_enc:] == theirs.timesteps[-t_enc:].tolist()
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_from_the_level_of_the_first_step_it_is_the_sample_that_starts_from_an_image():
    z, noise, cond = 0.5 * start().flip(0), start(), {"c_crossattn": [torch.zeros(2, 7, 4)]}
    sampler = image_to_image(Wobbly("eps"), 10)
    expected, _ = sampler.sample(10, 2, SHAPE, cond, x0=z, skip=6, x_T=noise, verbose=False)
    x = sampler.stochastic_encode(z, torch.tensor([3, 3]), noise=noise)
    torch.testing.assert_close(sampler.decode(x, cond, 4), expected)


def test_all_steps_are_a_sample_and_none_gives_the_latents_back():
    sampler = image_to_image(Wobbly("eps"), 10)
    expected, _ = sampler.sample(10, 2, SHAPE, x_T=start(), verbose=False)
    torch.testing.assert_close(sampler.decode(start(), {}, 10), expected)
    assert torch.equal(sampler.decode(start(), {}, 0), start())


def test_what_is_decoded_shows_its_progress_unless_it_is_not_wanted(capsys):
    image_to_image(Wobbly("eps")).decode(start(), {}, 3)
    assert capsys.readouterr().err == ""
    image_to_image(Wobbly("eps"), verbose=True).decode(start(), {}, 3)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize("number", [-1, 20])
def test_a_step_that_is_not_in_the_schedule_is_named(number):
    with pytest.raises(ValueError, match=rf"t must be between 0 and 19, the last of 20 steps, got \[3, {number}\]"):
        image_to_image(Wobbly("eps")).stochastic_encode(start(), torch.tensor([3, number]))


@pytest.mark.parametrize("number", [-1, 21])
def test_steps_that_the_schedule_has_not_are_named(number):
    with pytest.raises(ValueError, match=f"t_start must be between 0 and the number of steps, 20, got {number}"):
        image_to_image(Wobbly("eps")).decode(start(), {}, number)


def test_a_schedule_comes_first():
    with pytest.raises(ValueError, match="there is no schedule; call make_schedule first"):
        DDIMSampler(Wobbly("eps")).stochastic_encode(start(), torch.tensor([3, 3]))
    with pytest.raises(ValueError, match="there is no schedule; call make_schedule first"):
        DDIMSampler(Wobbly("eps")).decode(start(), {}, 3)


def test_what_a_schedule_cannot_be_is_named():
    with pytest.raises(ValueError, match="steps must be between 1 and 1000, got 0"):
        DDIMSampler(Wobbly("eps")).make_schedule(0)
    with pytest.raises(ValueError, match="ddim_discretize must be 'uniform', got 'quad'"):
        DDIMSampler(Wobbly("eps")).make_schedule(20, "quad")


def test_original_steps_are_refused_with_what_has_them_all():
    sampler, message = image_to_image(Wobbly("eps")), r"use_original_steps must be False, .* make_schedule\(1000\) has"
    with pytest.raises(ValueError, match=message):
        sampler.stochastic_encode(start(), torch.tensor([3, 3]), use_original_steps=True)
    with pytest.raises(ValueError, match=message):
        sampler.decode(start(), {}, 3, use_original_steps=True)
