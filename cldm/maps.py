"""From what a visitor gave - a picture, a drawing, or a control map - to the map that the network sees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import cv2
import numpy as np

from annotator.manifest import DETECTOR_FILES
from annotator.util import HWC3, find_checkpoint, resize, resize_image
from cldm.apps import DETECT_RESOLUTIONS, Demo, Detector, Drawing, black_and_white
from cldm.settings import Limit, check_number, whole

RESOLUTION_STEP = 64
_MOST_PIXELS = 3 * 768 * 768  # of a generated image: a panorama three times as long as the largest square
_MOST_DETECTED = 4 * 1024 * 1024  # likewise, of what a detector sees


@dataclass(frozen=True)
class MapRequest:
    """How a control map is to be made.

    Attributes:
        resolution: Short side of the image.
        detect_resolution: Short side of what the detector sees; None for the image's size.
        options: Values of the app's options, in their order.
        is_map: Whether the picture is a control map already, which no detector has to see.
    """

    resolution: int
    detect_resolution: int | None = None
    options: Sequence[float] = ()
    is_map: bool = False


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
    resolution = whole(values["resolution"])
    check_number("resolution", resolution, resolutions)
    if resolution % RESOLUTION_STEP:
        raise ValueError(f"resolution must be a multiple of {RESOLUTION_STEP}, got {resolution}")
    is_map = values.get("is_map", False)
    if not isinstance(is_map, bool):
        raise ValueError(f"is_map must be true or false, got {is_map!r}")
    detect_at = None
    if demo.detect_at is not None:
        detect_at = whole(values.get("detect_resolution", demo.detect_at))
        check_number("detection resolution", detect_at, DETECT_RESOLUTIONS)
    options = []
    for slider in demo.options:
        value = values.get(slider.name, slider.value)
        value = whole(value) if slider.limit.whole else value
        check_number(slider.label, value, slider.limit)
        options.append(value)
    return MapRequest(resolution, detect_at, tuple(options), is_map)


class MapMaker:
    """Makes an app's control maps; the detector is loaded by the first that needs it.

    Args:
        demo: The app.
        device: auto, cpu, cuda, cuda:N or mps.
        checkpoint: The detector's weights, a file or folder; None is `annotator/ckpts/`. A detector that has none is
            told nothing of it.
    """

    def __init__(self, demo: Demo, device: str = "auto", checkpoint: str | None = None) -> None:
        self.demo = demo
        self._device, self._checkpoint = device, checkpoint if demo.weights else None
        self._lock = Lock()
        self._detector: Detector | None = None

    def missing(self) -> str:
        """Which file the detector lacks and how to get it, Markdown; empty if it can be built."""
        if not self.demo.weights or self._detector is not None:
            return ""
        wanted = DETECTOR_FILES[self.demo.weights]
        try:
            find_checkpoint(wanted.file, self._checkpoint)
        except FileNotFoundError:
            place = wanted.folder if self._checkpoint is None else self._checkpoint
            return (
                f"the detector's file `{wanted.file}` ({wanted.megabytes:g} MB) is not in `{place}`; run "
                f"`python tool_download.py {self.demo.weights}`, or name it with `--detector`"
            )
        return ""

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
        _check_shape(image, request.resolution, _MOST_PIXELS)
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
            found = HWC3(self.demo.detect(self._detector, resize_image(image, seen_at), *request.options))
        size = resize_image(image, request.resolution).shape[:2]
        return found if found.shape[:2] == size else HWC3(resize(found, size, self.demo.resize_back))


def _drawn_map(drawing: Drawing, on_background: bool) -> np.ndarray:
    """A map of the strokes, on black or on the background, which then is a map already."""
    strokes = drawing.strokes()
    if on_background and drawing.background is not None:
        background = HWC3(drawing.background)
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
