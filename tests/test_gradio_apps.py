"""Each app as it starts in a fresh clone: in a real browser (its example, cancelled and run), and by a program.

Canny has a file of its own.
"""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from annotator.hed import FILE as HED_FILE
from annotator.mlsd import FILES as MLSD_FILES
from annotator.util import HWC3, resize, resize_image
from cldm.apps import Demo
from cldm.records import pixels_of, read_record
from parity import filled_state_dict, published_names
from serving import Served, fill_in, opened, served

STAR = Path(__file__).resolve().parents[1] / "test_imgs" / "star.png"
SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("hed", "scribble", "scribble_interactive", "fake_scribble", "pose", "seg", "depth", "normal")
]
RANDOM = {"mlsd": MLSD_FILES["large"], "hed": HED_FILE}
"""Detectors that are small enough to be filled with made-up weights here."""


def demo_of(name: str) -> Demo:
    return import_module(f"gradio_{name}2image").demo


@pytest.fixture
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Demo, Served]]:
    demo = demo_of(request.param)
    if demo.weights in RANDOM:
        torch.save(filled_state_dict(published_names(RANDOM[demo.weights])), tmp_path / RANDOM[demo.weights])
    flags = ("--detector", str(tmp_path)) if demo.weights else ()
    with served(f"gradio_{demo.name}2image.py", tmp_path, *flags) as running:
        yield demo, running


@pytest.mark.browser
@pytest.mark.parametrize("app", ["hough", *SLOW], indirect=True)
def test_the_app_in_the_browser_and_by_a_program(app, browser, tmp_path):
    demo, running = app
    with opened(running, browser) as page:
        see_what_it_runs_on(demo, page)
        choose_the_example(demo, page)
        page.get_by_text("Advanced options").click()
        cancel_a_run(page)
        run_with_seed_1(page)
    with opened(running, browser) as page:
        upload_no_picture(demo, page, tmp_path / "broken.png")
    client = Client(running.url, verbose=False)
    if not demo.canvas:
        run_by_a_program(demo, client)
    if demo.weights in RANDOM:
        detect_by_a_program(demo, client, running.log.parent)
    elif demo.weights:
        with pytest.raises(AppError, match=f"python tool_download.py {demo.weights}"):
            client.predict(image=handle_file(STAR), api_name="/preview_map")


def see_what_it_runs_on(demo: Demo, page: Any) -> None:
    page.get_by_text("Running on the bundled miniature").wait_for()
    page.get_by_text(f"control_sd15_{demo.control}").first.wait_for()
    missing = demo.weights and demo.weights not in RANDOM
    assert page.get_by_text("Control maps only").count() == (1 if missing else 0)


def choose_the_example(demo: Demo, page: Any) -> None:
    page.locator("tr.tr-body").first.click()
    page.get_by_role("checkbox", name="The input is already a control map").and_(page.locator(":checked")).wait_for()
    if demo.canvas:
        page.wait_for_timeout(6000)  # until the canvas sends what it shows
    else:
        page.get_by_test_id("image").locator("img").first.wait_for()


def cancel_a_run(page: Any) -> None:
    """One so long that it cannot end by itself before."""
    fill_in(page, {"number input for Steps": "100", "number input for Images": "12"})
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text(re.compile(r"Step \d+ of 100")).first.wait_for()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_text("Cancelled").wait_for()


def run_with_seed_1(page: Any) -> None:
    fill_in(page, {"number input for Steps": "3", "number input for Images": "1", "Seed": "1"})
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text(re.compile(r"^seed 1$")).first.wait_for()
    page.get_by_text("1 image in").wait_for()


def upload_no_picture(demo: Demo, page: Any, file: Path) -> None:
    """What is no picture is refused with a message: as the image, or with a canvas as the image to restore."""
    file.write_bytes(b"this is no picture")
    if demo.canvas:
        page.get_by_text("Restore settings from an image").click()
        saved = page.locator(".block").filter(has_text="Saved image").locator("input[type=file]")
        saved.last.wait_for(state="attached")
        page.wait_for_timeout(1000)  # the section may be mounted once more, see serving.fill_in
        saved.last.set_input_files(file)
    else:
        page.set_input_files("input[type=file]", file)
        page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("cannot read broken.png as an image").first.wait_for()


def run_by_a_program(demo: Demo, client: Client) -> None:
    gallery, seeds, _ = client.predict(
        image=handle_file(demo.example_map), is_map=True, prompt="gold star", steps=1, seed=3, api_name="/run"
    )
    example = np.asarray(Image.open(demo.example_map).convert("RGB"))
    shown, image = (np.asarray(Image.open(item["image"])) for item in gallery)
    seen = demo.network(example)
    assert np.array_equal(shown, demo.preview(demo.network(seen)))
    assert image.shape == (128, 128, 3)
    assert seeds == "3"
    (control,) = read_record(gallery[1]["image"]).controls
    assert np.array_equal(pixels_of(control.png), seen)


def detect_by_a_program(demo: Demo, client: Client, weights: Path) -> None:
    gallery, _, _ = client.predict(image=handle_file(STAR), detect_resolution=256, api_name="/preview_map")
    small = resize_image(HWC3(np.asarray(Image.open(STAR))), 256)
    detector = demo.detector(device="cpu", checkpoint=weights)
    found = HWC3(demo.detect(detector, small, *(option.value for option in demo.options)))
    finished = HWC3(demo.finish(resize(found, (128, 128), demo.resize_back)))
    assert len(np.unique(finished)) > 1
    assert np.array_equal(np.asarray(Image.open(gallery[0]["image"])), demo.preview(demo.network(finished)))
