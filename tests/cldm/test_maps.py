"""From a picture, a drawing or a map to what the network sees."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from torch.nn import Linear

from annotator.canny import CannyDetector
from annotator.scribble import ScribbleDetector, strokes
from annotator.util import resize_image
from cldm.apps import Demo, Drawing, Slider, black_and_white, invert, reverse_channels
from cldm.maps import MapMaker, MapRequest, map_notices, map_request
from cldm.settings import Limit


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2] = (250, 120, 30)
    return image


class Seen:
    """A detector that remembers what it saw; its map is the first channel."""

    def __init__(self, device: str, checkpoint: str | None = None) -> None:
        self.images: list[np.ndarray] = []

    def __call__(self, image: np.ndarray, *options: float) -> np.ndarray:
        self.images.append(image)
        return image[..., 0]


def maker(seen: Seen | None = None, **changes) -> MapMaker:
    detector: Callable = Seen if seen is None else lambda device: seen
    return MapMaker(Demo("Title", "canny", detector, **changes))


def test_a_map_at_the_images_size_is_the_detectors():
    canny = MapMaker(Demo("Canny", "canny", CannyDetector))
    small = resize_image(picture(), 64)
    expected = np.repeat(CannyDetector()(small, 10, 50)[..., None], 3, axis=2)
    made = canny.make(picture(), MapRequest(64, options=(10, 50)))
    assert made.any()
    assert np.array_equal(made, expected)


@pytest.mark.parametrize("interpolation", [cv2.INTER_NEAREST, cv2.INTER_LINEAR])
def test_detection_has_a_size_of_its_own_and_the_map_is_scaled_back(interpolation):
    seen = Seen("cpu")
    made = maker(seen, detect_at=384, resize_back=interpolation).make(picture(), MapRequest(64, 128))
    (image,) = seen.images
    assert np.array_equal(image, resize_image(picture(), 128))
    assert made.shape == (64, 64, 3)
    assert np.array_equal(made[..., 0], cv2.resize(image[..., 0], (64, 64), interpolation=interpolation))


def test_finish_comes_after_the_size_and_only_to_detected_maps():
    edges = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    edges = cv2.GaussianBlur(edges, (0, 0), 3) * 2
    fake = maker(None, detect_at=512, finish=strokes, network=black_and_white)
    made = fake.make(np.dstack([edges] * 3), MapRequest(128, 64))
    expected = strokes(cv2.resize(edges, (128, 128), interpolation=cv2.INTER_LINEAR))
    assert np.array_equal(made, np.repeat(expected[..., None], 3, axis=2))
    given = np.dstack([edges] * 3)
    assert np.array_equal(fake.make(given, MapRequest(64, 64, is_map=True)), black_and_white(given))


def test_weights_are_for_detectors_that_have_some():
    class Weighed(Seen):
        def __init__(self, device: str, checkpoint: str | None = None) -> None:
            super().__init__(device)
            given.append(checkpoint)

    given: list[str | None] = []
    for weights in ("hed", ""):
        MapMaker(Demo("A", "hed", Weighed, weights=weights), "cpu", "weights.pth").make(picture(), MapRequest(64))
    assert given == ["weights.pth", None]
    for detector in (CannyDetector, ScribbleDetector):
        MapMaker(Demo("A", "canny", detector), "cpu", "weights.pth").make(picture(), MapRequest(64))


def test_a_finished_map_needs_no_detector():
    def absent(device: str) -> None:
        raise FileNotFoundError("no checkpoint")

    given = resize_image(picture(), 64)
    asked = MapRequest(64, is_map=True)
    assert np.array_equal(MapMaker(Demo("A", "hed", absent)).make(given, asked), given)
    normal = MapMaker(Demo("A", "normal", absent, network=reverse_channels))
    assert np.array_equal(normal.make(given, asked), given[..., ::-1])
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        normal.make(given, MapRequest(64))


def test_colours_that_stand_for_classes_are_not_mixed():
    colours = np.array([(120, 120, 120), (6, 230, 230)], np.uint8)
    given = colours[np.random.default_rng(0).integers(0, 2, (100, 150))]
    made = maker(None, resize_back=cv2.INTER_NEAREST).make(given, MapRequest(64, is_map=True))
    assert made.shape == (64, 128, 3)
    assert {tuple(colour) for colour in made.reshape(-1, 3).tolist()} <= {tuple(colour) for colour in colours.tolist()}


def test_transparency_is_white_and_grey_is_three_channels():
    see_through = np.dstack([picture(64, 64), np.zeros((64, 64), np.uint8)])
    assert (maker().make(see_through, MapRequest(64)) == 255).all()
    assert maker().make(picture(64, 64)[..., 0], MapRequest(64)).shape == (64, 64, 3)


def drawn(background: np.ndarray | None = None) -> Drawing:
    layer = np.zeros((128, 128, 4), np.uint8)
    layer[30:50, 20:100, 3] = 255
    return Drawing(background, (layer,))


def test_a_drawing_is_its_strokes_scaled_and_black_and_white():
    canvas = MapMaker(Demo("A", "scribble", Seen, preview=invert, canvas=True, network=black_and_white))
    expected = np.zeros((64, 64, 3), np.uint8)
    expected[15:25, 10:50] = 255
    for background in (None, Drawing.blank(128, 128), picture(128, 128)):
        assert np.array_equal(canvas.make(drawn(background), MapRequest(64)), expected)


def test_a_background_that_is_a_map_gets_the_strokes_on_top():
    canvas = MapMaker(Demo("A", "scribble", Seen, canvas=True, network=black_and_white))
    background = np.zeros((128, 128, 3), np.uint8)
    background[100:110, 20:100] = 255
    made = canvas.make(drawn(background), MapRequest(64, is_map=True))
    assert np.array_equal(np.flatnonzero(made[:, 30, 0]), [*range(15, 25), *range(50, 55)])
    alone = canvas.make(Drawing(background), MapRequest(64, is_map=True))
    assert np.array_equal(np.flatnonzero(alone[:, 30, 0]), range(50, 55))
    assert canvas.make(drawn(), MapRequest(64, is_map=True)).any()


def test_white_paper_is_no_control_map():
    canvas = MapMaker(Demo("A", "scribble", Seen, canvas=True, network=black_and_white))
    for drawing in (drawn(Drawing.blank(128, 128)), Drawing(Drawing.blank(128, 128))):
        with pytest.raises(ValueError, match="expected a control map under the strokes, got white paper"):
            canvas.make(drawing, MapRequest(64, is_map=True))


def test_a_map_that_is_mostly_white_is_said_where_maps_are_black():
    white = np.full((64, 64, 3), 200, np.uint8)
    lines, depth = Demo("A", "canny", Seen), Demo("A", "depth", Seen, looks="Grey, the nearer the brighter")
    (notice,) = map_notices(lines, white, is_map=True)
    assert notice.startswith("The control map is mostly white, and expected is: white lines on black. If it")
    assert map_notices(lines, white, is_map=False) == map_notices(lines, 255 - white, is_map=True) == ()
    assert map_notices(depth, white, is_map=True) == ()


def test_a_picture_for_a_canvas_is_detected_unless_it_is_a_map():
    canvas = MapMaker(Demo("A", "scribble", ScribbleDetector, canvas=True, network=black_and_white))
    paper = Drawing.blank(64, 64)
    paper[10:20] = 0
    expected = np.zeros_like(paper)
    expected[10:20] = 255
    assert np.array_equal(canvas.make(paper, MapRequest(64)), expected)
    assert np.array_equal(canvas.make(expected, MapRequest(64, is_map=True)), expected)


@pytest.mark.parametrize("empty", [Drawing(), Drawing.blank(64, 64), Drawing(None, (np.zeros((64, 64, 4), np.uint8),))])
def test_an_empty_canvas_is_refused(empty):
    canvas = MapMaker(Demo("A", "scribble", Seen, canvas=True))
    drawing = empty if isinstance(empty, Drawing) else Drawing(empty)
    with pytest.raises(ValueError, match="expected a drawing, got an empty canvas: draw some lines"):
        canvas.make(drawing, MapRequest(64))


def test_strips_are_refused_before_they_fill_the_memory():
    strip = np.zeros((10, 3000, 3), np.uint8)
    for request in (MapRequest(128), MapRequest(128, is_map=True)):
        with pytest.raises(ValueError, match="3000 x 10 pixels is too long and narrow for the resolution 128; crop it"):
            maker().make(strip, request)
    with pytest.raises(ValueError, match="100 x 10 pixels is too long and narrow for the resolution 1024; crop it"):
        maker(detect_at=512).make(strip[:, :100], MapRequest(64, 1024))


def test_what_a_detector_lacks_is_said_until_it_is_there(tmp_path):
    missing = MapMaker(Demo("A", "hed", Seen, weights="hed"), "cpu", str(tmp_path))
    command = f"`python tool_download.py hed --to {tmp_path}`"
    beginning = "the detector's file `ControlNetHED.pth` (29 MB) is not in"
    assert missing.missing() == f"{beginning} `{tmp_path}`; run {command}, or name it with `--detector`"
    named = MapMaker(Demo("A", "hed", Seen, weights="hed"), "cpu", str(tmp_path / "mine.pth"))
    assert f"`{tmp_path}`, nor is `mine.pth`; run {command} and name it with `--detector`" in named.missing()
    (tmp_path / "ControlNetHED.pth").touch()
    assert missing.missing() == ""
    assert maker().missing() == ""


@pytest.mark.parametrize("save_memory", [False, True])
def test_networks_leave_the_accelerator_between_maps_to_save_memory(save_memory, monkeypatch):
    class Networked:
        def __init__(self, device: str) -> None:
            self.device, self.network = device, Linear(1, 1)

        def __call__(self, image: np.ndarray) -> np.ndarray:
            moves.append("used")
            return image[..., 0]

    moves: list[str] = []
    monkeypatch.setattr(Linear, "to", lambda self, device: moves.append(device))
    saving = MapMaker(Demo("A", "hed", Networked), "meta", save_memory=save_memory)
    for _ in range(2):
        saving.make(picture(), MapRequest(64))
    assert moves == (["meta", "used", "cpu"] if save_memory else ["used"]) * 2
    assert MapMaker(Demo("A", "canny", CannyDetector), save_memory=True).make(picture(), MapRequest(64)).any()


def test_what_is_not_said_has_the_apps_defaults():
    demo = Demo("A", "hed", Seen, (Slider("Low", 1, 255, 100),), detect_at=512)
    limits = Limit(64, 256, True)
    assert map_request(demo, {"resolution": 128.0}, limits) == MapRequest(128, 512, (100,), False)
    given = {"resolution": 64, "detect_resolution": 300.0, "low": 7.0, "is_map": True, "prompt": "x"}
    assert map_request(demo, given, limits) == MapRequest(64, 300, (7,), True)
    assert map_request(Demo("A", "canny", Seen), given, limits) == MapRequest(64, None, (), True)
    with pytest.raises(ValueError, match="detection resolution must be a whole number from 128 to 1024, got 100"):
        map_request(demo, {**given, "detect_resolution": 100}, limits)
