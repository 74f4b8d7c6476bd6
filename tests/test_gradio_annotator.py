"""The page of detectors, served by its script: in a real browser and through gradio_client."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from annotator.canny import CannyDetector
from annotator.catalogue import CATALOGUE
from annotator.mlsd import MLSDdetector
from annotator.util import HWC3, resize_image
from gradio_annotator import Detectors, _listener
from parity import filled_state_dict, published_names
from serving import Served, fill_in, opened, served

STAR = Path(__file__).resolve().parents[1] / "test_imgs" / "star.png"
FILE = "mlsd_large_512_fp32.pth"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights for M-LSD, and none for the others."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(filled_state_dict(published_names(FILE)), folder / FILE)
    return folder


@pytest.fixture(scope="module")
def app(weights: Path) -> Iterator[Served]:
    with served("gradio_annotator.py", weights, "--checkpoints", str(weights)) as running:
        yield running


@pytest.fixture(scope="module")
def client(app: Served) -> Client:
    return Client(app.url, verbose=False)


@pytest.fixture
def page(app: Served, browser: Any) -> Iterator[Any]:
    with opened(app, browser) as page:
        yield page


def tab(page: Any, name: str) -> Any:
    """Goes to a detector's tab; what is visible there."""
    page.get_by_role("tab", name=CATALOGUE[name].title, exact=True).click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.get_by_role("button", name="Run", exact=True).wait_for()
    return panel


def run(panel: Any, picture: Path) -> None:
    panel.locator("input[type=file]").set_input_files(picture)
    panel.locator("img").first.wait_for()
    panel.get_by_role("button", name="Run", exact=True).click()


def shown(page: Any, panel: Any, label: str) -> np.ndarray:
    """A map's pixels as the browser gets them."""
    image = panel.get_by_test_id("image").filter(visible=True).locator("img").last
    frame = panel.locator(".block").filter(has_text=label).locator("img").last
    frame.wait_for()
    assert image.count() <= 1
    return np.asarray(Image.open(io.BytesIO(page.request.get(frame.get_attribute("src")).body())))


def small(picture: Path, resolution: int) -> np.ndarray:
    return resize_image(HWC3(np.asarray(Image.open(picture))), resolution)


@pytest.mark.browser
def test_canny_runs_while_another_says_which_file_it_needs(page, app):
    panel = tab(page, "hed")
    panel.get_by_text("Cannot run yet").wait_for()
    panel.get_by_text("python tool_download.py hed").first.wait_for()
    run(panel, STAR)
    page.get_by_text("no checkpoint at").nth(1).wait_for()  # the message beside the notice

    panel = tab(page, "canny")
    assert panel.get_by_text("Cannot run yet").count() == 0
    fill_in(page, {"number input for Resolution": "256", "number input for Low threshold": "40"}, within=panel)
    run(panel, STAR)
    found = shown(page, panel, "Canny edges: map")
    np.testing.assert_array_equal(HWC3(found), HWC3(CannyDetector()(small(STAR, 256), 40, 200)))
    assert found.any()
    assert {url for url in page.requested if not url.startswith((app.url, "data:", "blob:"))} == set()


@pytest.mark.browser
def test_a_detector_with_weights_and_a_broken_upload(page, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"this is no picture")
    panel = tab(page, "mlsd")
    panel.locator("input[type=file]").set_input_files(tmp_path / "broken.png")
    panel.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("cannot read broken.png as an image").first.wait_for()
    page.reload()
    panel = tab(page, "mlsd")
    run(panel, STAR)
    assert shown(page, panel, "M-LSD straight lines: map").shape[:2] == (384, 384)


@pytest.mark.browser
def test_every_detector_has_a_tab_with_its_options(page):
    for name, entry in CATALOGUE.items():
        panel = tab(page, name)
        resolution = panel.get_by_label("number input for Resolution")
        assert resolution.input_value() == str(entry.resolution)
        for option in entry.options:
            if option.is_switch:
                assert panel.get_by_label(option.label).is_checked() == option.value
            else:
                value = panel.get_by_label(f"number input for {option.label}").input_value()
                assert float(value) == option.value


def test_pictures_are_decoded_up_to_64_megapixels(tmp_path):
    Image.new("1", (8192, 8193)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match=r"large\.png has 8192 x 8193 pixels, and at most 64 megapixels are read"):
        Detectors(None, "cpu").run("canny", str(tmp_path / "large.png"), 512)


def test_the_client_gets_the_detectors_map(client, weights):
    made = client.predict(image=handle_file(STAR), resolution=256, value=0.05, api_name="/mlsd")
    expected = MLSDdetector(weights, "cpu")(small(STAR, 256), 0.05, 0.1)
    np.testing.assert_array_equal(HWC3(np.asarray(Image.open(made))), HWC3(expected))


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("canny", {"resolution": 100}, "Resolution must be a number from 256 to 1024, got 100"),
        ("canny", {"low_threshold": 0}, "Low threshold must be a number from 1 to 255, got 0"),
        ("canny", {"image": None}, "expected an image, got none"),
        ("openpose", {}, "Run `python tool_download.py openpose --to "),
    ],
)
def test_what_cannot_be_is_a_message(client, name, wrong, message):
    with pytest.raises(AppError, match=message):
        client.predict(**{"image": handle_file(STAR), **wrong}, api_name=f"/{name}")


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_only_files_that_were_uploaded_are_read(app, meta):
    called = f"{app.url}gradio_api/call/canny"
    joined = httpx.post(called, json={"data": [{"path": str(STAR), **meta}, 256, 100, 200]}, timeout=60)
    answer = httpx.get(f"{called}/{joined.json()['event_id']}", timeout=60).text
    assert "event: error" in answer
    assert "event: complete" not in answer


def test_a_strip_is_refused(client, tmp_path):
    Image.fromarray(np.zeros((10, 2000, 3), np.uint8)).save(tmp_path / "strip.png")
    with pytest.raises(AppError, match="an image of 2000 x 10 pixels is too long and narrow for the resolution 512"):
        client.predict(image=handle_file(tmp_path / "strip.png"), api_name="/canny")


def test_lack_of_memory_is_a_message_on_cpus_too(monkeypatch):
    detectors = Detectors(None, "cpu")

    def lacking(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(detectors, "run", lacking)
    with pytest.raises(gr.Error, match="out of memory: choose a lower resolution"):
        _listener(detectors, "canny")(image=None)
