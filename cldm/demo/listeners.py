"""What the buttons of a page do: values from the browser to the runner, and what it tells to the page."""

import base64
import html
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from annotator.images import read_image
from annotator.util import HWC3
from cldm.apps import Drawing
from cldm.demo.serving import message, uploaded
from cldm.demo.streaming import stream
from cldm.out_of_memory import lack_of_memory_told
from cldm.records import pixels_of, png_of, read_record
from cldm.restoring import OF_START, restore
from cldm.runner import MOST_UPLOADED, Pictures, Runner, Update

_FORMING_SIDE = 192  # pixels of a picture as it forms, on the page
_EXPECTED = (ValueError, OSError, FloatingPointError, MemoryError)


class Listeners:
    """Functions behind an app's buttons.

    Args:
        runner: Of the app.
        inputs: The page's components by the names that `Runner.run` has for their values.
    """

    def __init__(self, runner: Runner, inputs: Mapping[str, Any]) -> None:
        self._runner, self._inputs = runner, dict(inputs)

    async def run(self, init_image: Any = None, **values: Any) -> AsyncGenerator[tuple[Any, Any, str], None]:
        """Make a control map of an image and images of the map."""
        import gradio as gr

        started = time.monotonic()
        shown: Path | None = None
        yield [], "", _progress(Update(0.0, "Starting"))
        try:
            with lack_of_memory_told():
                work = stream(lambda tell: self._runner.run(self._given(values, init_image), tell))
                async with aclosing(work) as updates:
                    async for update in updates:
                        if isinstance(update, Pictures):
                            yield _shown(update), ", ".join(map(str, update.seeds)), _finished(update, started)
                        elif update.control_map == shown:
                            yield gr.skip(), gr.skip(), _progress(update)
                        else:
                            shown = update.control_map
                            yield [(shown, "control map")], gr.skip(), _progress(update)
        except _EXPECTED as error:
            yield gr.skip(), gr.skip(), ""
            raise message(str(error)) from error
        except Exception:
            yield gr.skip(), gr.skip(), ""
            raise

    def preview(self, init_image: Any = None, **values: Any) -> tuple[Any, str, str]:
        """Make a control map of an image, and show it."""
        try:
            with lack_of_memory_told("choose a lower resolution"):
                pictures = self._runner.preview(self._given(values, init_image))
        except _EXPECTED as error:
            raise message(str(error)) from error
        return _shown(pictures), "", "".join(map(_said, pictures.notices))

    def cancelled(self) -> str:
        """What the page says when a run was cancelled."""
        return _said("Cancelled")

    def restore(self, saved: Any) -> list[Any]:
        """Read from a saved image how it was made, and set the page to that."""
        import gradio as gr

        runner, path = self._runner, None
        try:
            path = uploaded(saved)
            if path is None:
                return [gr.skip() for _ in (*self._inputs, "status")]
            record = read_record(path)
            changes = runner.changes_since(record)
            restored = restore(runner.demo, record, runner.defaults()[2], set(self._inputs), changes)
        except _EXPECTED as error:
            text = str(error).replace(path, Path(path).name) if path else str(error)
            raise message(text) from error
        folder = runner.new_folder()
        control_map = _written(folder / "restored_map.png", restored.control_map)
        values = {**restored.values, "image": _layered(control_map) if runner.demo.canvas else control_map}
        values["init_image"] = None
        if restored.init_image is not None:
            strokes = [] if restored.mask is None else [_written(folder / "strokes.png", _strokes(restored.mask))]
            values["init_image"] = _layered(_written(folder / "init_image.png", restored.init_image), strokes)
        status = _said(" ".join(["Settings restored.", *restored.notes]))
        return [*(values.get(name, gr.skip()) for name in self._inputs), status]

    def _given(self, values: Mapping[str, Any], init_image: Any) -> dict[str, Any]:
        """The browser's values as the runner takes them.

        The image to start from stands apart, since for gradio only a named argument may be left out by programs.

        Raises:
            ValueError: If what comes from the canvas is no drawing, or a file was not uploaded.
        """
        image = values.get("image")
        start = _start(self._inputs["init_image"], init_image) if init_image else {}
        given = {name: value for name, value in values.items() if name not in OF_START}
        if start:
            given |= {**start, **{name: values[name] for name in OF_START if name in values}}
        if not self._runner.demo.canvas:
            return {**given, "image": uploaded(image)}
        return {**given, "image": _drawing(self._inputs["image"], image) if image else None}


def _start(editor: Any, sent: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Of an image with strokes on it, the image and where it is painted.

    An editor that was painted on and has no image sends white paper in its place.
    """
    drawing = _drawing(editor, sent)
    strokes = drawing.strokes()
    painted = strokes is not None and (strokes > 127).any()
    if drawing.background is None or (HWC3(drawing.background) == 255).all():
        if painted:
            raise ValueError("expected an image to start from under what is painted: upload one, or clear the strokes")
        return {}
    return {"init_image": drawing.background, **({"mask": strokes} if painted else {})}


def _written(path: Path, png: bytes) -> str:
    path.write_bytes(png)
    return str(path)


def _layered(background: str, layers: Sequence[str] = ()) -> dict[str, Any]:
    """What a canvas shows: a file, and files of strokes on it."""
    return {"background": background, "layers": list(layers), "composite": None if layers else background}


def _strokes(mask: bytes) -> bytes:
    """A mask, a PNG, as white strokes on nothing."""
    inside = np.where(pixels_of(mask) > 127, np.uint8(255), np.uint8(0))
    return png_of(np.dstack([np.full((*inside.shape, 3), 255, np.uint8), inside]))


def _drawing(canvas: Any, sent: Mapping[str, Any]) -> Drawing:
    """What a canvas has sent, or a program in its name; a picture alone is the background."""
    if sent.get("id"):  # of what a browser has sent before, which no file is left of
        drawn = canvas.preprocess(canvas.data_model(id=sent["id"]))
        return Drawing(drawn["background"], tuple(drawn["layers"]))
    parts = [sent] if sent.get("path") else [sent.get("background"), *_listed(sent.get("layers"))]
    background, *layers = (_read(uploaded(part)) for part in parts)
    return Drawing(background, tuple(layer for layer in layers if layer is not None))


def _listed(layers: Any) -> list[Any]:
    if not isinstance(layers, list | None):
        raise ValueError(
            "expected a drawing: background, layers and composite, each an image, as the canvas sends them"
        )
    return layers or []


def _read(path: str | None) -> np.ndarray | None:
    return None if path is None else read_image(path, MOST_UPLOADED)


def _shown(pictures: Pictures) -> list[tuple[Path, str]]:
    captions = [f"seed {seed}" for seed in pictures.seeds]
    return [(pictures.preview, "control map"), *zip(pictures.images, captions, strict=True)]


def _finished(pictures: Pictures, started: float) -> str:
    count = len(pictures.images)
    done = f"{count} image{'s' if count > 1 else ''} in {time.monotonic() - started:.1f} s"
    return "".join(map(_said, (done, *pictures.notices)))


def _said(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _progress(update: Update) -> str:
    """A bar, what is going on, and the pictures as they form."""
    pictures = "".join(
        f'<img alt="the picture as it forms" src="{_data_url(image)}" '
        f'style="height: {_FORMING_SIDE}px; display: inline; margin: 4px">'
        for image in update.forming
    )
    bar = f'<progress aria-label="Progress" max="1" value="{update.share:.3f}" style="width: 100%"></progress>'
    return f"<p>{html.escape(update.what)}</p>{bar}{pictures}"


def _data_url(image: np.ndarray) -> str:
    """A small picture in the page itself, so that no file is left of it."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return f"data:image/png;base64,{base64.b64encode(encoded).decode('ascii')}"
