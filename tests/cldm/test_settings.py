"""Settings: defaults, limits, seeds and weights of the connections."""

from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest

from cldm.settings import LIMITS, PAGE_LIMITS, SAMPLERS, Settings, whole, with_whole_numbers


def test_defaults_are_the_published_apps():
    s = Settings()
    assert (s.images, s.strength, s.guess_mode, s.steps, s.scale, s.seed, s.eta) == (1, 1.0, False, 20, 9.0, -1, 0.0)
    assert s.added_prompt == "best quality, extremely detailed"
    assert s.negative_prompt == (
        "longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer digits, cropped, "
        "worst quality, low quality"
    )
    with pytest.raises(FrozenInstanceError):
        s.steps = 3


@pytest.mark.parametrize("name", LIMITS)
def test_limits_themselves_are_allowed_and_what_is_beyond_is_refused(name):
    lowest, highest, whole = LIMITS[name]
    for allowed in (lowest, highest):
        assert getattr(Settings(**{name: allowed}), name) == allowed
    for refused in (lowest - 1, highest + 1, float("nan"), float("inf"), None, "5", True):
        with pytest.raises(ValueError, match=rf"{name} must be .* from {lowest:g} to .*, got {refused!r}"):
            Settings(**{name: refused})
    if whole:
        with pytest.raises(ValueError, match=f"{name} must be a whole number"):
            Settings(**{name: lowest + 0.5})


def test_programs_may_go_beyond_the_pages_sliders_but_never_the_other_way_round():
    settings = Settings(steps=1000, scale=0.0, strength=-2.5, images=100)
    beyond = [name for name, limit in PAGE_LIMITS.items() if not limit.allows(getattr(settings, name))]
    assert beyond == ["steps", "scale", "strength", "images"]
    assert PAGE_LIMITS.keys() == LIMITS.keys()
    for name, limit in PAGE_LIMITS.items():
        assert LIMITS[name].allows(limit.lowest), name
        assert LIMITS[name].allows(limit.highest), name


def test_numpys_numbers_become_pythons():
    given = {"steps": np.int64(3), "scale": np.float32(7.5), "seed": np.uint32(5), "eta": Fraction(1, 2)}
    settings = Settings(**given)
    assert settings == Settings(steps=3, scale=7.5, seed=5, eta=0.5)
    assert [type(getattr(settings, name)) for name in given] == [int, float, int, float]
    assert type(Settings(scale=9).scale) is int, "as it was written, or records of the same image would differ"


def test_images_are_drawn_all_at_once_or_in_batches():
    assert Settings(images=5).batches() == [range(5)]
    assert Settings(images=5, batch_size=2).batches() == [range(2), range(2, 4), range(4, 5)]
    assert Settings(images=2, batch_size=9).batches() == [range(2)]


@pytest.mark.parametrize("name", ["seed", "scale"])
def test_numbers_of_any_length_are_refused_by_their_limits(name):
    for number in (10**400, -(10**400), Fraction(10**400)):
        with pytest.raises(ValueError, match=f"{name} must be a"):
            Settings(**{name: number})


def test_counted_settings_may_come_as_a_browsers_numbers():
    given = {"steps": 20.0, "images": 2.5, "scale": 9.0, "seed": True, "prompt": "a", "low": 3.0}
    found = with_whole_numbers(given)
    assert found == given
    assert {name: type(value) for name, value in found.items()} == {
        **{"steps": int, "images": float, "scale": float},
        **{"seed": bool, "prompt": str, "low": float},
    }
    assert [whole(value) for value in (float("inf"), None, "2.0")] == [float("inf"), None, "2.0"]


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="guess_mode must be True or False, got 1"):
        Settings(guess_mode=1)
    with pytest.raises(ValueError, match="negative_prompt must be a text, may be empty, got None"):
        Settings(negative_prompt=None)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_are_known_by_name(sampler):
    assert Settings(sampler=sampler).sampler == sampler


def test_the_sampler_is_ddim_unless_asked_for():
    assert Settings().sampler == "ddim"


@pytest.mark.parametrize("wrong", ["euler", "DDIM", "", None, ["ddim"]])
def test_other_samplers_are_refused(wrong):
    with pytest.raises(ValueError, match=r"sampler must be one of ddim, dpm\+\+, unipc, got"):
        Settings(sampler=wrong)


@pytest.mark.parametrize("sampler", ["dpm++", "unipc"])
def test_eta_is_for_ddim_alone(sampler):
    assert Settings(sampler="ddim", eta=0.5).eta == 0.5
    with pytest.raises(ValueError, match=r"eta must be 0 with the sampler .*, got 0.5; only ddim takes others"):
        Settings(sampler=sampler, eta=0.5)


def test_each_image_has_a_seed_and_a_random_one_is_picked_anew():
    assert Settings(seed=7, images=3).seeds() == [7, 8, 9]
    first, second = Settings(images=2).seeds(), Settings(images=2).seeds()
    assert first[1] == first[0] + 1
    assert first != second
    assert Settings(seed=first[1]).seeds() == [first[1]]
    with pytest.raises(ValueError, match="seed must be at most 4294967294 for 2 images, got 4294967295"):
        Settings(seed=2**32 - 1, images=2)


REDUCTIONS = [1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8]
"""Of Stable Diffusion's connections."""


def test_guess_mode_weakens_the_outer_connections():
    assert Settings(strength=0.5).control_scales(REDUCTIONS) == [0.5] * 13
    scales = Settings(strength=2.0, guess_mode=True).control_scales(REDUCTIONS)
    assert scales[-1] == 2.0
    assert scales[0] == pytest.approx(2 * 0.825**12)
    assert scales[11] == pytest.approx(2 * 0.825)


def test_resolution_weighting_is_the_papers():
    scales = Settings(strength=0.5, cfg_resolution_weighting=True).control_scales(REDUCTIONS)
    heights = [64 // reduction for reduction in REDUCTIONS]  # of the connections at 512 pixels
    assert scales == [0.5 * 64 / height for height in heights]


def test_the_unconditional_pass_sees_the_control_unless_one_of_the_two_hides_it():
    assert Settings().control_in_both_passes
    assert not Settings(guess_mode=True).control_in_both_passes
    assert not Settings(cfg_resolution_weighting=True).control_in_both_passes
    with pytest.raises(ValueError, match="guess_mode and cfg_resolution_weighting weigh the same connections"):
        Settings(guess_mode=True, cfg_resolution_weighting=True)


def test_prompts_are_joined_by_a_comma_where_both_are_there():
    assert Settings().full_prompt("a bird ") == "a bird, best quality, extremely detailed"
    assert Settings().full_prompt("") == "best quality, extremely detailed"
    assert Settings(added_prompt=" ").full_prompt("a bird") == "a bird"
