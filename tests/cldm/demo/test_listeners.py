"""What the buttons do: progress, messages, drawings, settings restored."""

import asyncio
import base64
import re
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from cldm.apps import Demo, Drawing
from cldm.demo import build
from cldm.demo.listeners import Listeners
from cldm.records import ControlMap, Record, png_of, save_png
from cldm.runner import Machine, Pictures, Runner, Update
from cldm.settings import Settings

MAP = np.zeros((256, 320, 3), np.uint8)
NOTHING = Pictures(Path("map.png"), [])


@pytest.fixture
def listeners(demo: Demo, full_size: Machine) -> Listeners:
    return of(demo, full_size)


def of(demo: Demo, machine: Machine) -> Listeners:
    page = build(Runner(demo, machine))
    return next(fn.fn.__self__ for fn in page.fns.values() if fn.api_name == "run")


def run(listeners: Listeners, **values) -> list[tuple]:
    async def collected():
        return [yielded async for yielded in listeners.run(**values)]

    return asyncio.run(collected())


def test_progress_shows_the_map_the_bar_and_the_forming_picture(listeners, monkeypatch, tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    shown = tmp_path / "map.png"

    async def stream(work):
        yield Update(0.25, "Step <1>", shown, [colours])
        yield Pictures(shown, [tmp_path / "a.png", tmp_path / "b.png"], [7, 8], ("The prompt was cut.",))

    monkeypatch.setattr("cldm.demo.listeners.stream", stream)
    first, step, last = run(listeners)
    assert first[:2] == ([], "")
    assert step[0] == [(shown, "control map")]
    assert "Step &lt;1&gt;" in step[2]
    assert '<progress aria-label="Progress" max="1" value="0.250"' in step[2]
    encoded = re.search(r"data:image/png;base64,([\w+/=]+)", step[2])[1]
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(decoded, colours)
    assert last[0] == [(shown, "control map"), (tmp_path / "a.png", "seed 7"), (tmp_path / "b.png", "seed 8")]
    assert last[1] == "7, 8"
    assert re.fullmatch(r"<p>2 images in \d+\.\d s</p><p>The prompt was cut.</p>", last[2])


def test_expected_errors_are_messages_without_markup(listeners, tmp_path, capsys):
    (tmp_path / "<b>.png").write_text("no picture")
    given = {"image": {"path": str(tmp_path / "<b>.png")}}
    for press in (lambda: run(listeners, **given), lambda: listeners.preview(**given)):
        with pytest.raises(gr.Error, match=r"cannot read &lt;b&gt;.png as an image"):
            press()
        assert "Error: cannot read <b>.png as an image" in capsys.readouterr().err


@pytest.mark.parametrize("lack", [torch.OutOfMemoryError("9 GB"), RuntimeError("can't allocate memory"), MemoryError()])
def test_out_of_memory_is_a_message_and_the_bar_is_closed(listeners, monkeypatch, lack):
    def work(*given):
        raise lack

    monkeypatch.setattr(Runner, "run", work)
    monkeypatch.setattr(Runner, "preview", work)
    shown = []

    async def listen():
        async for _, _, status in listeners.run():
            shown.append(status)

    with pytest.raises(gr.Error, match="out of memory: ask for fewer images or a lower resolution"):
        asyncio.run(listen())
    assert "<progress" in shown[0]
    assert shown[-1] == ""
    with pytest.raises(gr.Error, match="out of memory: choose a lower resolution"):
        listeners.preview()


def test_what_is_not_expected_is_not_hidden(listeners, monkeypatch):
    def work(*given):
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(Runner, "run", work)
    monkeypatch.setattr(Runner, "preview", work)
    shown = []

    async def listen():
        async for _, _, status in listeners.run():
            shown.append(status)

    for press in (lambda: asyncio.run(listen()), listeners.preview):
        with pytest.raises(RuntimeError, match="sizes do not match"):
            press()
    assert shown[-1] == "", "the bar is closed"


def test_no_part_of_an_editor_is_decoded_beyond_what_is_read(listeners, tmp_path, monkeypatch):
    monkeypatch.setattr("cldm.demo.listeners.MOST_UPLOADED", 31)
    Image.new("RGBA", (8, 4)).save(tmp_path / "large.png")
    large = {"path": str(tmp_path / "large.png")}
    for editor in (large, {"background": large, "layers": []}, {"background": None, "layers": [large]}):
        with pytest.raises(gr.Error, match=r"large\.png has 8 x 4 pixels, and at most .* megapixels are read"):
            listeners.preview(init_image={"composite": None, **editor})


def test_a_drawing_and_what_is_none(demo, full_size, tmp_path, monkeypatch):
    listeners = of(replace(demo, canvas=True), full_size)
    layer = np.zeros((64, 64, 4), np.uint8)
    layer[10:20, :, 3] = 255
    Image.fromarray(layer).save(tmp_path / "layer.png")
    taken = []
    monkeypatch.setattr(Runner, "preview", lambda runner, values: taken.append(values["image"]) or NOTHING)
    listeners.preview(image={"background": None, "layers": [{"path": str(tmp_path / "layer.png")}], "composite": None})
    listeners.preview(image={"path": str(tmp_path / "layer.png")})
    drawing, picture = taken
    assert np.array_equal(drawing.strokes(), layer[..., 3])
    assert drawing.background is None
    assert picture.layers == ()
    assert np.array_equal(picture.background, layer)
    with pytest.raises(gr.Error, match="expected a drawing: background, layers and composite"):
        listeners.preview(image={"layers": 3})
    (tmp_path / "layer.png").write_text("no picture")
    with pytest.raises(gr.Error, match=r"cannot read layer.png as an image"):
        listeners.preview(image={"background": {"path": str(tmp_path / "layer.png")}})


def test_an_image_to_start_from_and_where_it_is_painted(listeners, tmp_path, monkeypatch):
    picture, layer = np.full((48, 64, 3), 90, np.uint8), np.zeros((48, 64, 4), np.uint8)
    layer[10:20, :, 3] = 255
    Image.fromarray(picture).save(tmp_path / "picture.png")
    Image.fromarray(layer).save(tmp_path / "layer.png")
    background, strokes = ({"path": str(tmp_path / f"{name}.png")} for name in ("picture", "layer"))
    taken = []
    monkeypatch.setattr(Runner, "preview", lambda runner, values: taken.append(values) or NOTHING)
    settings = {"denoise": 0.6, "mask_border": 4}
    listeners.preview(init_image={"background": background, "layers": [strokes], "composite": None}, **settings)
    listeners.preview(init_image={"background": background, "layers": [], "composite": None}, **settings)
    listeners.preview(init_image={"background": None, "layers": [], "composite": None}, **settings)
    listeners.preview(**settings)
    painted, whole, cleared, none = taken
    assert np.array_equal(painted["init_image"][..., :3], picture)
    assert np.array_equal(painted["mask"], layer[..., 3])
    assert (painted["denoise"], painted["mask_border"]) == (0.6, 4)
    assert "mask" not in whole
    assert not {"init_image", "mask", "denoise", "mask_border"} & {*cleared, *none}
    Image.fromarray(Drawing.blank(64, 48)).save(tmp_path / "paper.png")
    paper = {"path": str(tmp_path / "paper.png")}  # what an editor sends without an image once it was painted on
    for nothing in (None, paper):
        with pytest.raises(gr.Error, match="expected an image to start from under what is painted"):
            listeners.preview(init_image={"background": nothing, "layers": [strokes], "composite": None})
    listeners.preview(init_image={"background": paper, "layers": [], "composite": None}, **settings)
    assert "init_image" not in taken[-1]


def saved(folder: Path, **changes) -> Path:
    control = ControlMap("canny", png_of(MAP), options={"low": 30})
    record = Record("a bird", Settings(steps=7, seed=3), 3, controls=(control,))
    return save_png(folder / "saved.png", np.zeros((256, 320, 3), np.uint8), replace(record, **changes))


@pytest.mark.parametrize("canvas", [False, True])
def test_a_saved_image_sets_the_page(demo, full_size, tmp_path, canvas):
    listeners = of(replace(demo, canvas=canvas), full_size)
    *values, status = listeners.restore({"path": str(saved(tmp_path))})
    restored = dict(zip(listeners._inputs, values, strict=True))
    image = restored["image"]["background"] if canvas else restored["image"]
    assert np.array_equal(np.asarray(Image.open(image)), MAP)
    wanted = {"prompt": "a bird", "is_map": True, "resolution": 256, "steps": 7, "seed": 3, "low": 30}
    assert {name: restored[name] for name in wanted} == wanted
    assert status.startswith("<p>Settings restored.")


def test_a_saved_image_brings_what_it_began_with(listeners, tmp_path):
    mask = np.zeros((256, 320), np.uint8)
    mask[50:70] = 255
    begun = {"init_image": png_of(MAP + 7), "mask": png_of(mask), "settings": Settings(seed=3, denoise=0.4)}
    *values, _ = listeners.restore({"path": str(saved(tmp_path, **begun))})
    restored = dict(zip(listeners._inputs, values, strict=True))
    assert restored["denoise"] == 0.4
    editor = restored["init_image"]
    assert np.array_equal(np.asarray(Image.open(editor["background"])), MAP + 7)
    (layer,) = editor["layers"]
    assert np.array_equal(np.asarray(Image.open(layer))[..., 3], mask)
    (tmp_path / "saved.png").unlink()
    *values, _ = listeners.restore({"path": str(saved(tmp_path))})
    assert dict(zip(listeners._inputs, values, strict=True))["init_image"] is None


def test_what_cannot_be_restored_is_a_message(listeners, tmp_path):
    Image.fromarray(MAP).save(tmp_path / "plain.png")
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(gr.Error, match=r"plain.png has nothing in it about how it was made"):
        listeners.restore({"path": str(tmp_path / "plain.png")})
    with pytest.raises(gr.Error, match=r"cannot read broken.png as an image"):
        listeners.restore({"path": str(tmp_path / "broken.png")})
    with pytest.raises(gr.Error, match=r"tool_generate.py makes it again"):
        listeners.restore({"path": str(saved(tmp_path, controls=()))})
    assert len(listeners.restore(None)) == len(listeners._inputs) + 1


def test_only_files_in_the_folder_of_uploads_are_read(listeners, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    file = {"path": str(saved(tmp_path))}
    for press in (
        lambda: run(listeners, image=file),
        lambda: listeners.preview(image=file),
        lambda: listeners.preview(image={"path": str(tmp_path / "uploads" / ".." / "saved.png")}),
        lambda: listeners.preview(image=str(tmp_path / "saved.png")),
        lambda: listeners.preview(init_image=file),
        lambda: listeners.preview(init_image={"background": None, "layers": [file]}),
        lambda: listeners.restore(file),
        lambda: listeners.restore({"path": str(tmp_path / "absent.png")}),
    ):
        with pytest.raises(gr.Error, match="expected an uploaded file, got something else"):
            press()


def test_parts_of_an_editor_are_read_as_other_pictures_are(listeners, tmp_path, monkeypatch):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray(np.full((4, 4), 256 * 90, np.uint16)).save(tmp_path / "deep.png")
    taken = []
    monkeypatch.setattr(Runner, "preview", lambda runner, values: taken.append(values["init_image"]) or NOTHING)
    for name in ("turned.jpg", "deep.png"):
        listeners.preview(init_image={"background": {"path": str(tmp_path / name)}, "layers": []})
    assert taken[0].shape == (8, 4, 3)
    assert (taken[1] == 90).all()


def test_what_comes_from_the_browser_is_decoded_in_the_runs_own_thread(listeners, monkeypatch):
    threads = []
    monkeypatch.setattr(Listeners, "_given", lambda *_: threads.append(threading.current_thread()) or {})
    monkeypatch.setattr(Runner, "run", lambda *_: Pictures(Path("map.png"), [Path("a.png")], [1]))
    run(listeners)
    assert threads != [threading.current_thread()]


def test_the_preview_says_what_should_be_known(listeners, monkeypatch):
    monkeypatch.setattr(Runner, "preview", lambda *_: Pictures(Path("map.png"), [], notices=("It is <white>.",)))
    assert listeners.preview() == ([(Path("map.png"), "control map")], "", "<p>It is &lt;white&gt;.</p>")


def test_cancelling_is_said(listeners):
    assert listeners.cancelled() == "<p>Cancelled</p>"
