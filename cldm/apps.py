"""What an app is: its description, as data, and what happens to a map between detector, network and page."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from annotator.util import HWC3
from cldm.settings import Limit

DETECT_RESOLUTIONS = Limit(128, 1024, True)
PICTURES = Path(__file__).resolve().parent.parent / "test_imgs"
EXAMPLE_PROMPT = "light coral star with navy background"
"""Of the control maps that `test_imgs/maps/` has for every app: all show this scene of the miniature's world."""

Detector = Callable[..., Any]
MapFunction = Callable[[np.ndarray], np.ndarray]
"""A map, uint8 RGB (h, w, 3), to another."""


@dataclass(frozen=True)
class Slider:
    """A number that a detector takes after the image."""

    label: str
    minimum: float
    maximum: float
    value: float
    step: float = 1

    @property
    def name(self) -> str:
        """What programs that call the app name it."""
        return re.sub(r"\W+", "_", self.label.lower()).strip("_")

    @property
    def limit(self) -> Limit:
        return Limit(self.minimum, self.maximum, whole=float(self.step).is_integer())


def unchanged(control_map: np.ndarray) -> np.ndarray:
    """The map as it is."""
    return control_map


def invert(control_map: np.ndarray) -> np.ndarray:
    """Black lines on white instead of white ones on black."""
    return 255 - control_map


def thicken_and_invert(control_map: np.ndarray) -> np.ndarray:
    """Lines one pixel wide as black ones, three wide, on white."""
    return 255 - cv2.dilate(control_map, np.ones((3, 3), np.uint8))


def black_and_white(control_map: np.ndarray) -> np.ndarray:
    """Nothing but 0 and 255, as drawn lines have it that were not scaled."""
    return np.where(control_map > 127, np.uint8(255), np.uint8(0))


def reverse_channels(control_map: np.ndarray) -> np.ndarray:
    """RGB as BGR, which the published ControlNet of normals was trained on; done twice, it is undone."""
    return np.ascontiguousarray(control_map[..., ::-1])


def call(detector: Detector, image: np.ndarray, *options: float) -> np.ndarray:
    """The map of a detector that returns nothing else and takes its options in order."""
    return detector(image, *options)


@dataclass(frozen=True)
class Demo:
    """One app.

    A picture is scaled to `detect_at`, detected, and its map scaled to the image's size and finished; or the picture is
    a map already. Either way `network` makes of it what the network sees, and `preview` what people see.

    Attributes:
        title: Of the page.
        control: Kind of control map as published model files name it, such as "openpose".
        detector: Class whose instances, made of `device` and, with weights, `checkpoint`, are given to `detect`; built
            at the first run.
        options: The detector's settings.
        preview: How the map is shown.
        name: What the app's script, example and results are named after; `control` by default.
        looks: What a finished map looks like, for those who bring one; "on black" says that it is mostly black.
        weights: The detector's file in `annotator.manifest.DETECTOR_FILES`; empty if it needs none.
        detect: Detector, image and the options' values to a map.
        detect_at: Short side that is detected well, with a slider of its own; None for the image's.
        resize_back: OpenCV's interpolation of the map to the image's size.
        finish: Of a detected map at the image's size.
        network: Of any map; done twice, it must do no more than done once, or undo it.
        canvas: Whether people draw the map instead of uploading a picture.
        picture: File in `test_imgs/` to try the detector with, and a prompt for it.
    """

    title: str
    control: str
    detector: Callable[..., Detector]
    options: tuple[Slider, ...] = ()
    preview: MapFunction = unchanged
    name: str = ""
    looks: str = "white lines on black"
    weights: str = ""
    detect: Callable[..., np.ndarray] = call
    detect_at: int | None = None
    resize_back: int = cv2.INTER_LINEAR
    finish: MapFunction = unchanged
    network: MapFunction = unchanged
    canvas: bool = False
    picture: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.control)

    @property
    def on_black(self) -> bool:
        """Whether a finished map is mostly black."""
        return "on black" in self.looks

    @property
    def example_map(self) -> Path:
        """A control map for the miniature, drawn by `test_imgs/make_maps.py`."""
        return PICTURES / "maps" / f"{self.name}.png"

    def examples(self) -> list[tuple[Path, str, bool]]:
        """Pictures that are there, with a prompt each and whether they are control maps already."""
        given = [(self.example_map, EXAMPLE_PROMPT, True)]
        if self.picture is not None:
            file, prompt = self.picture
            given.append((PICTURES / file, prompt, False))
        return [example for example in given if example[0].is_file()]


@dataclass(frozen=True)
class Drawing:
    """What people drew on a canvas.

    Attributes:
        background: Picture under the drawing, uint8, RGB or RGBA; None if there is none.
        layers: The strokes: uint8 RGBA (h, w, 4), each transparent where nothing is drawn.
    """

    background: np.ndarray | None = None
    layers: tuple[np.ndarray, ...] = field(default_factory=tuple)

    @staticmethod
    def blank(width: int, height: int) -> np.ndarray:
        """White paper, uint8 RGB (height, width, 3)."""
        return np.full((height, width, 3), 255, np.uint8)

    def strokes(self) -> np.ndarray | None:
        """What is drawn, in whatever colour, uint8 (h, w): white on black; None if there is no layer.

        Layers without transparency count where they are light.
        """
        masks = [
            layer[..., 3] if layer.ndim == 3 and layer.shape[2] == 4 else HWC3(layer).max(axis=2)
            for layer in self.layers
        ]
        if not masks:
            return None
        height, width = masks[0].shape
        masks = [cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) for mask in masks]
        return np.maximum.reduce(masks)
