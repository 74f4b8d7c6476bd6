"""The app with a canvas, served by its script: strokes of a mouse in a real browser, and through gradio_client."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import tiny
from serving import Served, opened, served, stroke


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("app")
    config, checkpoint = tiny.write_model(folder)
    flags = ("--checkpoint", str(checkpoint), "--config", str(config))
    with served("gradio_scribble_interactive2image.py", folder, *flags) as running:
        yield running


@pytest.fixture
def page(app: Served, browser: Any) -> Iterator[Any]:
    with opened(app, browser) as page:
        page.get_by_role("button", name="Run", exact=True).wait_for()
        page.locator("canvas").first.wait_for()
        yield page


def preview(page: Any) -> np.ndarray:
    """The map as the browser gets it after a press of the button."""
    page.get_by_role("button", name="Preview map").click()
    picture = page.locator("img[src*='scribble_interactive_map.png']").last
    picture.wait_for()
    page.wait_for_timeout(500)
    return np.asarray(Image.open(io.BytesIO(page.request.get(picture.get_attribute("src")).body())))


@pytest.mark.browser
def test_strokes_of_the_mouse_become_the_map_and_an_image(page):
    stroke(page, (-0.25, 0.05), (0.25, 0.05))
    shown = preview(page)
    assert shown.shape == (64, 64, 3)
    assert set(np.unique(shown)) == {0, 255}, "black on white"
    rows, columns = np.nonzero(shown[..., 0] == 0)
    assert np.ptp(columns) > 3 * np.ptp(rows), "a level stroke"
    assert len(rows) < 0.2 * 64 * 64
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("1 image in").wait_for()
    assert page.locator("img[src*='scribble_interactive_'][src$='.png']").count() >= 2


@pytest.mark.browser
def test_a_new_canvas_is_no_control_map(page):
    ticked = page.get_by_label("The input is already a control map")
    page.get_by_text("light coral star with navy background").first.click()
    page.wait_for_timeout(1500)
    assert ticked.is_checked()
    page.get_by_role("button", name="New canvas").click()
    page.wait_for_timeout(1500)
    assert not ticked.is_checked()
    stroke(page, (-0.25, 0.05), (0.25, 0.05))
    assert (preview(page) == 0).mean() < 0.2


def drawing(folder: Path) -> dict[str, Any]:
    """What a program draws: one layer on nothing."""
    layer = np.zeros((128, 128, 4), np.uint8)
    layer[40:60, 20:100] = (255, 0, 0, 255)
    Image.fromarray(layer).save(folder / "layer.png")
    return {"background": None, "layers": [handle_file(folder / "layer.png")], "composite": None}


def test_the_client_draws(app, tmp_path):
    client = Client(app.url, verbose=False)
    gallery, seeds, _ = client.predict(image=drawing(tmp_path), prompt="x", steps=1, seed=3, api_name="/run")
    expected = np.full((64, 64, 3), 255, np.uint8)
    expected[20:30, 10:50] = 0
    assert np.array_equal(np.asarray(Image.open(gallery[0]["image"])), expected)
    assert seeds == "3"
    with pytest.raises(AppError, match="expected a drawing, got an empty canvas: draw some lines"):
        client.predict(image={**drawing(tmp_path), "layers": []}, api_name="/preview_map")
