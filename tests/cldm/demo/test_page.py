"""The page built from a description."""

from dataclasses import fields, replace

import gradio as gr
import numpy as np

from cldm.apps import Demo
from cldm.demo import build
from cldm.runner import Machine, Runner
from cldm.settings import ADDED_PROMPT, NEGATIVE_PROMPT, Settings


def components(page: gr.Blocks) -> dict[str, gr.blocks.Block]:
    return {block.label: block for block in page.blocks.values() if getattr(block, "label", None)}


def sliders(demo: Demo, machine: Machine | None = None) -> dict[str, tuple[float, ...]]:
    found = components(build(Runner(demo, machine)))
    return {n: (b.minimum, b.maximum, b.value, b.step) for n, b in found.items() if isinstance(b, gr.Slider)}


def test_the_page_has_the_published_apps_settings(demo, full_size):
    assert sliders(demo, full_size) == {
        "Images": (1, 12, 1, 1),
        "Resolution": (256, 768, 512, 64),
        "Control strength": (0, 2, 1.0, 0.01),
        "Low": (1, 255, 100, 1),
        "Value": (0.01, 2, 0.1, 0.01),
        "Steps": (1, 100, 20, 1),
        "Guidance scale": (0.1, 30, 9.0, 0.1),
        "Eta (DDIM)": (0, 1, 0.0, 0.01),
        "CLIP skip": (0, 12, 0, 1),
        "Denoising": (0, 1, 0.75, 0.01),
        "Fading border of what is painted, pixels": (0, 128, 0, 1),
    }
    found = components(build(Runner(demo, full_size)))
    assert found["Guess mode"].value is False
    assert found["Resolution weighting"].value is False
    assert found["Long prompts"].value is False
    assert found["The input is already a control map"].value is False
    assert found["Seed"].value == -1
    assert found["Sampler"].value == "ddim"
    assert [value for _, value in found["Sampler"].choices] == ["ddim", "dpm++", "unipc"]
    assert (found["Added prompt"].value, found["Negative prompt"].value) == (ADDED_PROMPT, NEGATIVE_PROMPT)


def test_every_setting_has_a_field(demo, full_size):
    page = build(Runner(demo, full_size))
    (run,) = (fn for fn in page.fns.values() if fn.api_name == "run")
    assert {field.name for field in fields(Settings)} - {"batch_size"} <= set(run.fn.__self__._inputs)


def test_a_detection_resolution_and_a_canvas_where_the_app_has_them(demo, full_size):
    found = sliders(replace(demo, detect_at=384, canvas=True), full_size)
    assert found["Detection resolution"] == (128, 1024, 384, 1)
    assert found["Canvas width"] == found["Canvas height"] == (256, 1024, 512, 64)
    canvas = components(build(Runner(replace(demo, canvas=True), full_size)))["Drawing"]
    assert canvas.canvas_size == (512, 512)


def test_on_the_miniature_all_is_smaller(demo):
    found = sliders(replace(demo, canvas=True))
    assert found["Resolution"] == (64, 256, 128, 64)
    assert found["Canvas width"] == (128, 512, 256, 64)


def test_a_new_canvas_is_white_and_as_large_as_asked(demo, full_size):
    page = build(Runner(replace(demo, canvas=True), full_size))
    (new,) = (fn for fn in page.fns.values() if fn.name == "<lambda>")
    paper, is_map = new.fn(320.0, 256)
    assert np.array_equal(paper, np.full((256, 320, 3), 255))
    assert is_map is False
    (drawing,) = (block for block in page.blocks.values() if getattr(block, "label", None) == "Drawing")
    assert "#ffffff" not in drawing.brush.colors, "unseen on white paper"


def test_a_page_without_a_model_says_what_is_missing(demo, full_size):
    page = build(Runner(demo, Machine((f"{full_size.checkpoints[0]}.absent",))))
    texts = [block.value for block in page.blocks.values() if isinstance(block, gr.Markdown)]
    assert any("Cannot run yet" in text and "control_sd15_canny.pth.absent" in text for text in texts)


def test_pages_send_nothing_about_their_use(demo, full_size):
    assert build(Runner(demo, full_size)).analytics_enabled is False
