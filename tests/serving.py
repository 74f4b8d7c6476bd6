"""Apps served by their own scripts, for tests that use them as people and programs do."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
_WAIT = 240  # seconds until an app must answer, on a busy machine


class Served(NamedTuple):
    """Where an app answers, and what it prints."""

    url: str
    log: Path


@contextmanager
def served(script: str, folder: Path, *flags: str) -> Iterator[Served]:
    """Run a root script on a free port until the end of the block; its output goes to a file in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = Served(f"http://127.0.0.1:{port}/", folder / f"{script}.log")
    command = [sys.executable, script, "--port", str(port), "--device", "cpu", *flags]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with app.log.open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(app, process)
            yield app
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(app: Served, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + _WAIT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(app.url, timeout=10).close()
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    raise RuntimeError(f"the app did not answer at {app.url}; it printed:\n{app.log.read_text()}")


@contextmanager
def opened(app: Served, browser: Any) -> Iterator[Any]:
    """The app's page in the browser; `page.requested` lists the addresses that it asked for."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(120_000)
    page.requested = []
    page.on("request", lambda request: page.requested.append(request.url))
    page.goto(app.url)
    yield page
    page.close()


def fill_in(page: Any, values: Mapping[str, str], within: Any = None) -> None:
    """Type values into fields by their labels, and see that they stay.

    Gradio mounts the fields of a section when it is opened, and on a busy machine sometimes once more when their code
    has arrived: what a program typed in between, faster than people do, is lost with the first ones.
    """
    fields = {(within or page).get_by_label(label, exact=True): value for label, value in values.items()}
    for _ in range(20):
        for field, value in fields.items():
            field.fill(value)
            field.press("Tab")
        page.wait_for_timeout(500)
        if all(field.input_value() == value for field, value in fields.items()):
            return
    raise AssertionError(f"the page does not keep {dict(values)}")


def stroke(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A stroke with the mouse, between shares of the canvas' sides, from the middle outwards.

    Repeated until it can be undone: while the canvas is being set up, it takes none, and nothing tells.
    """
    canvas = page.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    side = min(box["width"], box["height"])
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    undo = page.get_by_role("button", name="Undo")
    for _ in range(20):
        page.mouse.move(x + start[0] * side, y + start[1] * side)
        page.mouse.down()
        page.mouse.move(x + end[0] * side, y + end[1] * side, steps=10)
        page.mouse.up()
        page.wait_for_timeout(1000)
        if undo.is_enabled():
            return
    raise AssertionError("the canvas takes no strokes")
