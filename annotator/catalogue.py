"""All detectors, as `gradio_annotator.py` and `tool_annotate.py` offer them. A new detector is one more entry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from annotator.manifest import DETECTOR_FILES
from annotator.util import find_checkpoint

Detector = Callable[..., Any]


@dataclass(frozen=True)
class Option:
    """A setting of a detector.

    Attributes:
        name: What the detector's call names it.
        label: What people read.
        value: Its default; True or False for a switch, which has no range.
        minimum: Lowest value.
        maximum: Highest value.
        step: Between values of a slider.
        weights: Of a switch: name in `annotator.manifest.DETECTOR_FILES` of the file that it needs; empty for none.
    """

    name: str
    label: str
    value: float | bool
    minimum: float = 0
    maximum: float = 1
    step: float = 0.01
    weights: str = ""

    @property
    def is_switch(self) -> bool:
        return isinstance(self.value, bool)

    def checked(self, value: Any) -> float | bool:
        """The value itself.

        Raises:
            ValueError: If it is none that the option can have.
        """
        if self.is_switch:
            if not isinstance(value, bool):
                raise ValueError(f"{self.label} must be true or false, got {value!r}")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not self._contains(value):
            raise ValueError(f"{self.label} must be a number from {self.minimum:g} to {self.maximum:g}, got {value!r}")
        return value

    def _contains(self, value: float) -> bool:
        return self.minimum <= value <= self.maximum


@dataclass(frozen=True)
class Entry:
    """A detector.

    Attributes:
        title: What people read.
        target: Its class.
        shows: What its map looks like.
        options: Its settings.
        maps: Names of the maps that it returns.
        weights: Its files' names in `annotator.manifest.DETECTOR_FILES`; all are needed but those of options.
        resolution: At which an image's short side is detected well.
    """

    title: str
    target: str
    shows: str
    options: tuple[Option, ...] = ()
    maps: tuple[str, ...] = ("map",)
    weights: tuple[str, ...] = ()
    resolution: int = 512

    def build(self, folder: str | Path | None = None, device: str = "auto") -> Detector:
        """The detector, its weights loaded.

        Args:
            folder: With files of the published names; None is `annotator/ckpts/`.
            device: "auto", "cuda", "mps", "cpu", ...

        Raises:
            FileNotFoundError: If its file is missing; says how to get it.
            ValueError: If the file is damaged, or there is no such device.
        """
        module, name = self.target.rsplit(".", 1)
        files = {} if folder is None else {DETECTOR_FILES[weights].argument: folder for weights in self.weights}
        return getattr(import_module(module), name)(device=device, **files)

    def files(self, folder: str | Path | None = None, options: Mapping[str, Any] | None = None) -> list[Path]:
        """The files of weights that are needed.

        Args:
            folder: As for `build`.
            options: As for `detect`.

        Raises:
            FileNotFoundError: If one is missing; says how to get it.
        """
        chosen = options or {}
        off = {option.weights for option in self.options if not chosen.get(option.name, option.value)}
        return [find_checkpoint(DETECTOR_FILES[name].file, folder) for name in self.weights if name not in off]

    def missing(self, folder: str | Path | None = None) -> str:
        """Which file the detector lacks and how to get it; empty if it can be built."""
        try:
            self.files(folder)
        except FileNotFoundError as error:
            return str(error)
        return ""

    def detect(self, detector: Detector, image: np.ndarray, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The maps of an image, by name.

        Args:
            detector: What `build` returned.
            image: uint8 RGB, (h, w, 3).
            options: Values by names of options; the others have their defaults.

        Raises:
            ValueError: If a value is not in its range, or the detector does not take the image.
        """
        known = {option.name: option for option in self.options}
        if unknown := set(options) - set(known):
            raise ValueError(f"{self.title} has no option {sorted(unknown)}; its options are {sorted(known)}")
        values = {name: option.checked(options.get(name, option.value)) for name, option in known.items()}
        found = detector(image, **values)
        return dict(zip(self.maps, found if isinstance(found, tuple) else (found,), strict=False))


CATALOGUE: dict[str, Entry] = {
    "canny": Entry(
        "Canny edges",
        "annotator.canny.CannyDetector",
        "thin white edges on black",
        options=(
            Option("low_threshold", "Low threshold", 100, 1, 255, 1),
            Option("high_threshold", "High threshold", 200, 1, 255, 1),
        ),
    ),
    "hed": Entry("HED soft edges", "annotator.hed.HEDdetector", "soft white edges on black", weights=("hed",)),
    "mlsd": Entry(
        "M-LSD straight lines",
        "annotator.mlsd.MLSDdetector",
        "straight white lines on black, one pixel wide",
        options=(
            Option("value", "Value threshold", 0.1, 0.01, 2),
            Option("distance", "Distance threshold", 0.1, 0.01, 20),
        ),
        weights=("mlsd",),
        resolution=384,
    ),
    "midas": Entry(
        "MiDaS depth and normals",
        "annotator.midas.MidasDetector",
        "depth: near is white; normals: x, y and z of the surface's direction as R, G and B",
        options=(Option("a", "Alpha of the normals", 6.2, 0.1, 20), Option("bg_th", "Background threshold", 0.1)),
        maps=("depth", "normal"),
        weights=("midas",),
        resolution=384,
    ),
    "openpose": Entry(
        "OpenPose poses",
        "annotator.openpose.OpenposeDetector",
        "coloured skeletons on black",
        options=(Option("hand", "Hands", False, weights="openpose_hand"),),
        weights=("openpose", "openpose_hand"),
    ),
    "uniformer": Entry(
        "UniFormer segments",
        "annotator.uniformer.UniformerDetector",
        "a flat colour for each of ADE20K's 150 classes",
        weights=("uniformer",),
    ),
}
"""Name -> detector, in the order in which they are shown."""
