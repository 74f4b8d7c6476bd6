"""What an app is, and what it does when Run is pressed: all of it except the page."""

import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from annotator.images import read_image
from annotator.util import HWC3, resize_image
from cldm.model_files import ModelFiles, find_model
from cldm.settings import LIMITS, Limit, Settings, check_number

RESOLUTION_STEP = 64
_RESOLUTIONS = Limit(256, 768, True)
_MINIATURE_RESOLUTIONS = Limit(64, 256, True)
_MOST_PIXELS = 3 * 768 * 768  # of a generated image: a panorama three times as long as the largest square
_RUNS_KEPT = 16  # folders of PNGs; the page has copies of its own by then


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
    """Show the map as the network sees it."""
    return control_map


def invert(control_map: np.ndarray) -> np.ndarray:
    """Show black lines on white instead of white ones on black."""
    return 255 - control_map


@dataclass(frozen=True)
class Demo:
    """One app.

    Attributes:
        title: Of the page.
        control: Kind of control map as published model files name it, such as "canny".
        detector: Class whose instances make a map of an image and of the options' values; built at the first run.
        options: The detector's settings.
        preview: How the map is shown; the network sees it unchanged.
    """

    title: str
    control: str
    detector: Callable[..., Callable[..., np.ndarray]]
    options: tuple[Slider, ...] = ()
    preview: Callable[[np.ndarray], np.ndarray] = unchanged


@dataclass(frozen=True)
class Machine:
    """What an app runs on.

    Attributes:
        checkpoints: The user's weights; none for the best there are, see `cldm.model_files.find_model`.
        config: The user's yaml.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32, bfloat16 or float16.
    """

    checkpoints: tuple[str, ...] = ()
    config: str | None = None
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True)
class Pictures:
    """PNG files of a run: the map as shown, then the images; and the images' seeds."""

    preview: Path
    images: list[Path]
    seeds: list[int] = field(default_factory=list)


class Runner:
    """Runs an app's jobs one after the other; model and detector are loaded by the first.

    Args:
        demo: The app.
        machine: What it runs on.
    """

    def __init__(self, demo: Demo, machine: Machine | None = None):
        self.demo = demo
        self.machine = Machine() if machine is None else machine
        self._lock = Lock()
        self._files: ModelFiles | None = None
        self._model: Any = None
        self._detector: Callable[..., np.ndarray] | None = None
        self._folders: deque[TemporaryDirectory] = deque()

    def files(self) -> ModelFiles:
        """The model's files; looked for again until they are there.

        Raises:
            FileNotFoundError: If they are not.
            ValueError: If they cannot be what the user named.
        """
        if self._files is None:
            self._files = find_model(self.demo.control, self.machine.checkpoints, self.machine.config)
        return self._files

    def notice(self) -> str:
        """What the user should know before pressing Run, Markdown; may be empty."""
        try:
            return self.files().notice
        except (OSError, ValueError) as error:
            return f"**Cannot run yet**: {error}"

    def defaults(self) -> tuple[Settings, int, Limit]:
        """Settings and resolution to start with, and the resolution's limits."""
        try:
            files = self.files()
        except (OSError, ValueError):
            return Settings(), 512, _RESOLUTIONS
        limits = _RESOLUTIONS if files.resolution >= _RESOLUTIONS.lowest else _MINIATURE_RESOLUTIONS
        return files.settings, int(min(files.resolution, limits.highest)), limits

    def run(self, values: Mapping[str, Any], progress: Callable[[float, str], object] | None = None) -> Pictures:
        """Make a control map of an image and images of the map.

        Args:
            values: "image", a file's path, "prompt", "resolution", the fields of `Settings` and the options by name.
            progress: Called with the share done, 0 to 1, and what is going on.

        Raises:
            ValueError: If the image is no picture or a value is out of its limits.
            FileNotFoundError: If a file of weights is missing.
            FloatingPointError: If the model gave no image.
        """
        tell = progress or (lambda share, what: None)
        settings, resolution, options = self._checked(values)
        image = read_upload(values.get("image"))
        with self._lock:
            control_map = self._control_map(image, resolution, options)
            from cldm.pipeline import generate, load  # slow to import, so not before the first run

            if self._model is None:
                tell(0.0, "Loading the model")
                self._model = load(self.files(), self.machine.device, self.machine.precision)
            result = generate(
                self._model,
                control_map,
                str(values.get("prompt") or ""),
                settings,
                lambda done, steps, z: tell(done / (steps + 1), f"Step {done} of {steps}"),
            )
            return self._saved(self.demo.preview(control_map), result.images, result.seeds)

    def _checked(self, values: Mapping[str, Any]) -> tuple[Settings, int, list[float]]:
        """Settings, resolution and the options' values."""
        given = {f.name: values[f.name] for f in fields(Settings) if f.name in values}
        given = {
            name: _whole(value) if name in LIMITS and LIMITS[name].whole else value for name, value in given.items()
        }
        _, default, limits = self.defaults()
        resolution = _whole(values.get("resolution", default))
        check_number("resolution", resolution, limits)
        if resolution % RESOLUTION_STEP:
            raise ValueError(f"resolution must be a multiple of {RESOLUTION_STEP}, got {resolution}")
        options = []
        for slider in self.demo.options:
            value = values.get(slider.name, slider.value)
            value = _whole(value) if slider.limit.whole else value
            check_number(slider.label, value, slider.limit)
            options.append(value)
        return Settings(**given), resolution, options

    def _control_map(self, image: np.ndarray, resolution: int, options: list[float]) -> np.ndarray:
        image = HWC3(image)
        short, long = sorted(image.shape[:2])
        if resolution**2 * long / short > _MOST_PIXELS:
            raise ValueError(
                f"an image of {image.shape[1]} x {image.shape[0]} pixels is too long and narrow for the resolution "
                f"{resolution}; crop it, or choose a lower resolution"
            )
        if self._detector is None:
            self._detector = self.demo.detector(device=self.machine.device)
        return HWC3(self._detector(resize_image(image, resolution), *options))

    def _saved(self, preview: np.ndarray, images: list[np.ndarray], seeds: list[int]) -> Pictures:
        if len(self._folders) == _RUNS_KEPT:
            self._folders.popleft().cleanup()
        self._folders.append(TemporaryDirectory(prefix="controlnet_"))
        folder, control = Path(self._folders[-1].name), self.demo.control
        paths = [folder / f"{control}_{seed}.png" for seed in seeds]
        shown = folder / f"{control}_map.png"
        for path, pixels in zip((shown, *paths), (preview, *images), strict=True):
            Image.fromarray(pixels).save(path)
        return Pictures(shown, paths, seeds)


def read_upload(path: str | Path | None) -> np.ndarray:
    """Pixels of a visitor's picture, as `annotator.images.read_image` has them.

    Raises:
        ValueError: If there is none, or it is damaged or no picture.
    """
    if path is None:
        raise ValueError("expected an image, got none: upload one, then press Run")
    return read_image(path)


def _whole(value: Any) -> Any:
    """A browser's 20.0 as 20; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
