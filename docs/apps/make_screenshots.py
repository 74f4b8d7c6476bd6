"""Takes the pictures of docs/apps.md: python docs/apps/make_screenshots.py [APP ...] [--output FOLDER].

Each app is started as its command in the document starts it, and used in a real browser: its example is run, and on the
canvas a star is drawn with the mouse. Needs chromium and the packages of `.[dev]`.
"""

import argparse
import io
import math
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "tests"))

from cldm.apps import EXAMPLE_PROMPT
from serving import fill_in, opened, served

APPS = (
    "canny",
    "hough",
    "hed",
    "scribble",
    "scribble_interactive",
    "fake_scribble",
    "pose",
    "seg",
    "depth",
    "normal",
)
_SEED = "1"
_CANVAS = "scribble_interactive"
_COLOURS = 128  # of the pictures' palette, which keeps them small
_MOST_BYTES = 150_000
_SETTLE = 1500  # milliseconds until the canvas takes strokes, which nothing on the page tells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("apps", nargs="*", metavar="APP", help=f"of {', '.join(APPS)}; by default all")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder; pictures are replaced")
    given = parser.parse_args()
    if unknown := set(given.apps) - set(APPS):
        parser.error(f"no app {', '.join(sorted(unknown))}; there are {', '.join(APPS)}")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        parser.error("chromium is not installed; install it with: apt-get install chromium")
    with sync_playwright() as playwright, TemporaryDirectory() as logs:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name in given.apps or APPS:
            with served(f"gradio_{name}2image.py", Path(logs)) as app, opened(app, browser) as page:
                file = given.output / f"{name}.png"
                write_small(picture_of(page, name), file)
                print(f"{file}: {file.stat().st_size} bytes", flush=True)
        browser.close()


def picture_of(page: Any, name: str) -> bytes:
    """A PNG of the page after a run."""
    page.set_viewport_size({"width": 1280, "height": 800})
    page.get_by_role("button", name="Run", exact=True).wait_for()
    if name == _CANVAS:
        page.get_by_label("Prompt", exact=True).fill(EXAMPLE_PROMPT)
        draw_star(page)
    else:
        page.locator("tr.tr-body").first.click()
        page.locator("input[type=checkbox]:checked").wait_for()
        page.get_by_test_id("image").locator("img").first.wait_for()
    options = page.get_by_text("Advanced options")
    options.click()
    fill_in(page, {"Seed": _SEED})
    options.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("1 image in").wait_for()
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)  # until the pictures have faded in
    return page.screenshot(full_page=True)


def draw_star(page: Any) -> None:
    """Five-pointed, with the mouse."""
    page.locator("canvas").first.wait_for()
    page.wait_for_timeout(_SETTLE)
    box = page.locator("canvas").first.bounding_box()
    x, y, side = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, min(box["width"], box["height"])
    for k in range(11):
        radius = side * (0.34 if k % 2 == 0 else 0.15)
        angle = math.pi * k / 5
        page.mouse.move(x + radius * math.sin(angle), y - radius * math.cos(angle), steps=1 if k == 0 else 12)
        if k == 0:
            page.mouse.down()
    page.mouse.up()
    page.wait_for_timeout(_SETTLE)


def write_small(png: bytes, file: Path) -> None:
    """Write a picture with few colours, whole or not at all.

    Raises:
        ValueError: If it is larger than pictures of the documents should be.
    """
    small = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(small, format="PNG", optimize=True)
    if small.tell() > _MOST_BYTES:
        raise ValueError(f"{file.name} would have {small.tell()} bytes, more than {_MOST_BYTES}; take fewer colours")
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".tmp")
    part.write_bytes(small.getvalue())
    part.replace(file)


if __name__ == "__main__":
    main()
