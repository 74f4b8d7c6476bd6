"""A saved image's record back to the values of an app's page."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from cldm.apps import Demo, Slider, reverse_channels
from cldm.model_files import APPS
from cldm.records import ControlMap, Record, WeightsFile, pixels_of, png_of
from cldm.restoring import OF_START, restore
from cldm.settings import Limit, Settings

MAP = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)
SETTINGS = Settings(steps=7, seed=3, images=4, sampler="unipc", strength=0.7, guess_mode=True, negative_prompt="x")
SHOWN = set(Settings.__dataclass_fields__)
LIMITS = Limit(64, 256, True)
WEIGHTS = WeightsFile("sd.safetensors", 12, "a" * 64)
RECORD = Record(
    "a bird",
    SETTINGS,
    5,
    index=2,
    controls=(ControlMap("canny", png_of(MAP), options={"low": 30, "elsewhere": 9}),),
    weights=(WEIGHTS,),
)
DEMO = Demo("A", "canny", object, (Slider("Low", 1, 255, 100),))


def test_all_of_it_comes_back_and_the_map_in_the_pictures_place():
    restored = restore(DEMO, RECORD, LIMITS, SHOWN)
    kept = {name: getattr(SETTINGS, name) for name in SHOWN - set(OF_START)}
    assert restored.values == {**kept, "low": 30, "prompt": "a bird", "resolution": 128, "is_map": True}
    assert np.array_equal(pixels_of(restored.control_map), MAP)
    assert restored.notes == ("It is number 3 of 4 images; its own seed is 5.",)
    assert restore(DEMO, replace(RECORD, settings=Settings(seed=5), index=0), LIMITS, SHOWN).notes == ()


def test_an_image_that_began_with_another_brings_it_and_its_mask():
    settings = replace(SETTINGS, denoise=0.4, mask_border=3)
    image, mask = png_of(MAP[::-1]), png_of(MAP[..., 0])
    restored = restore(DEMO, replace(RECORD, settings=settings, init_image=image, mask=mask), LIMITS, SHOWN)
    assert (restored.values["denoise"], restored.values["mask_border"]) == (0.4, 3)
    assert (restored.init_image, restored.mask) == (image, mask)


def test_a_control_of_a_share_of_the_steps_is_said_to_be_for_another_program():
    control = replace(RECORD.controls[0], share={"end": 0.5})
    notes = restore(DEMO, replace(RECORD, controls=(control,)), LIMITS, SHOWN).notes
    assert "This page has no field for end = 0.5: tool_generate.py makes the image again." in notes


def test_a_map_comes_back_as_people_bring_it():
    demo = Demo("A", "canny", object, network=reverse_channels)
    assert np.array_equal(pixels_of(restore(demo, RECORD, LIMITS, SHOWN).control_map), MAP[..., ::-1])


def test_the_script_for_another_kind_is_there():
    scripts = {path.stem for path in Path(__file__).parents[2].glob("gradio_*2image.py")}
    for kind, name in APPS.items():
        assert f"gradio_{name}2image" in scripts
        assert import_module(f"gradio_{name}2image").demo.control == kind
    assert {import_module(name).demo.control for name in scripts} == set(APPS)


def test_what_is_not_as_it_was_is_said():
    notes = restore(DEMO, RECORD, LIMITS, SHOWN - {"strength", "eta"}, ["a is not b", "device: cpu then"]).notes
    assert "This page has no field for strength = 0.7: tool_generate.py makes the image again." in notes
    assert "Not as it was, so that another picture may come: a is not b; device: cpu then." in notes
    assert len(restore(DEMO, RECORD, LIMITS, SHOWN).notes) == 1


@pytest.mark.parametrize(
    ("changes", "limits", "message"),
    [
        ({"controls": ()}, LIMITS, "made with 0 control maps, and the apps take one map alone: tool_generate.py"),
        (
            {"controls": (ControlMap("depth", png_of(MAP)),)},
            LIMITS,
            "depth, this app is for canny: start gradio_depth2image.py",
        ),
        ({"controls": (ControlMap("x", png_of(MAP)),)}, LIMITS, "is for canny: tool_generate.py makes it again"),
        (
            {"settings": replace(SETTINGS, steps=500, scale=0.0)},
            LIMITS,
            "made with steps = 500, scale = 0.0, beyond what",
        ),
        ({}, Limit(256, 768, True), "short side has 128 pixels, and this app on its model makes from 256 to 768"),
    ],
)
def test_images_that_another_program_makes_are_refused(changes, limits, message):
    with pytest.raises(ValueError, match=message):
        restore(DEMO, replace(RECORD, **changes), limits, SHOWN)
