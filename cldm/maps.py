"""From what a visitor gave - a picture, a drawing, or a control map - to the map that the network sees."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
from torch import nn

from annotator.images import read_image
from annotator.manifest import DETECTOR_FILES
from annotator.util import HWC3, checkpoint_path, download_command, resize, resize_image
from cldm.apps import DETECT_RESOLUTIONS, Demo, Detector, Drawing, black_and_white
from cldm.records import map_shown
from cldm.settings import Limit, checked_number, whole

RESOLUTION_STEP = 64
_LONGEST_SHAPE, _USUAL_SIDE = 3, 768  # a panorama three times as long as the largest square, and that square's side
_MOSTLY_WHITE = 127  # of 255, on average
_MOST_DETECTED = 4 * 1024 * 1024  # likewise, of what a detector sees


@dataclass(frozen=True)
class MapRequest:
    """How a control map is to be made.

    Attributes:
        resolution: Short side of the image.
        detect_resolution: Short side of what the detector sees; None for the image's size.
        options: Values of the app's options, in their order.
        is_map: Whether the picture is a control map already, which no detector has to see.
        most_pixels: Of the map.
    """

    resolution: int
    detect_resolution: int | None = None
    options: Sequence[float] = ()
    is_map: bool = False
    most_pixels: int = _LONGEST_SHAPE * _USUAL_SIDE**2


def read_picture(file: str | Path, is_map: bool = False, most_pixels: int | None = None) -> np.ndarray:
    """Pixels of a picture's file, as `annotator.images.read_image` has them.

    Args:
        file: Of the picture.
        is_map: Whether it is a control map; of one that an app has shown, inverted as may be, it is the map itself.
        most_pixels: A larger picture is not decoded.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, no picture, or too large.
    """
    pixels = read_image(file, most_pixels)
    own = map_shown(file, pixels) if is_map else None
    return pixels if own is None else own


def map_notices(demo: Demo, control_map: np.ndarray, is_map: bool) -> tuple[str, ...]:
    """What those should know who brought a control map, as the network sees it; sentences."""
    if not (is_map and demo.on_black and demo.network(control_map).mean() > _MOSTLY_WHITE):
        return ()
    return (f"The control map is mostly white, and expected is: {demo.looks}. If it is the reverse, invert it first.",)


def map_request(demo: Demo, values: Mapping[str, Any], resolutions: Limit) -> MapRequest:
    """What a page or a program asks for, checked.

    Args:
        demo: The app.
        values: "resolution"; and, if they are not the app's defaults, "is_map", "detect_resolution" and the options by
            name. A browser's 20.0 counts as 20.
        resolutions: Limits of the resolution.

    Raises:
        ValueError: If a value is out of its limits.
    """
    resolution = checked_number("resolution", whole(values["resolution"]), resolutions)
    if resolution % RESOLUTION_STEP:
        raise ValueError(f"resolution must be a multiple of {RESOLUTION_STEP}, got {resolution}")
    is_map = values.get("is_map", False)
    if not isinstance(is_map, bool):
        raise ValueError(f"is_map must be true or false, got {is_map!r}")
    detect_at = None
    if demo.detect_at is not None:
        given = whole(values.get("detect_resolution", demo.detect_at))
        detect_at = checked_number("detection resolution", given, DETECT_RESOLUTIONS)
    options = []
    for slider in demo.options:
        value = values.get(slider.name, slider.value)
        value = whole(value) if slider.limit.whole else value
        options.append(checked_number(slider.label, value, slider.limit))
    most_pixels = round(_LONGEST_SHAPE * max(resolutions.highest, _USUAL_SIDE) ** 2)
    return MapRequest(resolution, detect_at, tuple(options), is_map, most_pixels)


class MapMaker:
    """Makes an app's control maps; the detector is loaded by the first that needs it.

    Args:
        demo: The app.
        device: auto, cpu, cuda, cuda:N or mps.
        checkpoint: The detector's weights, a file or folder; None is `annotator/ckpts/`. A detector that has none is
            told nothing of it.
        save_memory: Whether the detector's networks leave the accelerator between maps.
    """

    def __init__(
        self, demo: Demo, device: str = "auto", checkpoint: str | None = None, save_memory: bool = False
    ) -> None:
        self.demo = demo
        self._save_memory = save_memory
        self._device, self._checkpoint = device, checkpoint if demo.weights else None
        self._lock = Lock()
        self._detector: Detector | None = None

    def missing(self) -> str:
        """Which file the detector lacks and how to get it, Markdown; empty if it can be built."""
        if not self.demo.weights or self._detector is not None:
            return ""
        wanted = DETECTOR_FILES[self.demo.weights]
        path = checkpoint_path(wanted.file, self._checkpoint)
        if path.is_file():
            return ""
        folder = wanted.folder if self._checkpoint is None else path.parent
        other, link = ("", ", or") if path.name == wanted.file else (f", nor is `{path.name}`", " and")
        return (
            f"the detector's file `{wanted.file}` ({wanted.megabytes:g} MB) is not in `{folder}`{other}; run "
            f"`{download_command(self.demo.weights, path.parent)}`{link} name it with `--detector`"
        )

    def make(self, picture: np.ndarray | Drawing, request: MapRequest) -> np.ndarray:
        """The map that the network sees, uint8 RGB (h, w, 3), sides multiples of 64.

        Args:
            picture: uint8, RGB, RGBA or grey; or what is drawn on a canvas, which no detector has to see. A drawing
                that is a control map already is its background with white strokes on it.
            request: How.

        Raises:
            ValueError: If the picture is of an impossible shape, or nothing is drawn.
            FileNotFoundError: If the detector's weights are missing.
        """
        drawn = isinstance(picture, Drawing)
        image = HWC3(_drawn_map(picture, request.is_map) if drawn else picture)
        _check_shape(image, request.resolution, request.most_pixels)
        if request.is_map or drawn:
            found = self._fitted(image, request.resolution)
        else:
            found = self.demo.finish(self._detected(image, request))
        return HWC3(self.demo.network(HWC3(found)))

    def _fitted(self, control_map: np.ndarray, resolution: int) -> np.ndarray:
        """A finished map in the image's size; where colours stand for something, none are mixed."""
        scaled = resize_image(control_map, resolution)
        if self.demo.resize_back != cv2.INTER_NEAREST:
            return scaled
        return resize(control_map, scaled.shape[:2], cv2.INTER_NEAREST)

    def _detected(self, image: np.ndarray, request: MapRequest) -> np.ndarray:
        """The detector's map, in the image's size."""
        seen_at = request.detect_resolution or request.resolution
        _check_shape(image, seen_at, _MOST_DETECTED)
        with self._lock:
            if self._detector is None:
                given = {} if self._checkpoint is None else {"checkpoint": self._checkpoint}
                self._detector = self.demo.detector(device=self._device, **given)
            with _in_use(self._detector) if self._save_memory else nullcontext():
                found = HWC3(self.demo.detect(self._detector, resize_image(image, seen_at), *request.options))
        size = resize_image(image, request.resolution).shape[:2]
        return found if found.shape[:2] == size else HWC3(resize(found, size, self.demo.resize_back))


@contextmanager
def _in_use(detector: Detector) -> Iterator[None]:
    """Have a detector's networks on its device, and on the CPU afterwards."""
    try:
        for network in _networks(detector):
            network.to(detector.device)
        yield
    finally:
        for network in _networks(detector):
            network.to("cpu")


def _networks(detector: Detector) -> list[nn.Module]:
    return [part for part in vars(detector).values() if isinstance(part, nn.Module)]


def _drawn_map(drawing: Drawing, on_background: bool) -> np.ndarray:
    """A map of the strokes, on black or on the background, which then is a map already."""
    strokes = drawing.strokes()
    if on_background and drawing.background is not None:
        background = HWC3(drawing.background)
        if (background == 255).all():
            raise ValueError(
                "expected a control map under the strokes, got white paper: upload one, or untick that the input is a "
                "control map already"
            )
        if strokes is None:
            return background
        height, width = background.shape[:2]
        scaled = cv2.resize(strokes, (width, height), interpolation=cv2.INTER_NEAREST)
        return np.maximum(background, black_and_white(scaled)[..., None])
    if strokes is None or not (strokes > 127).any():
        raise ValueError("expected a drawing, got an empty canvas: draw some lines, then press Run")
    return HWC3(black_and_white(strokes))


def _check_shape(image: np.ndarray, resolution: int, most: int) -> None:
    short, long = sorted(image.shape[:2])
    if resolution**2 * long / short > most:
        raise ValueError(
            f"an image of {image.shape[1]} x {image.shape[0]} pixels is too long and narrow for the resolution "
            f"{resolution}; crop it, or choose a lower resolution"
        )
