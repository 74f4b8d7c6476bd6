"""What an app does when a button is pressed: all of it except the page."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
from torch import Tensor

from cldm.apps import Demo, Drawing
from cldm.further import Further, Mapped, share_of
from cldm.further import places as placed
from cldm.machine import Machine
from cldm.maps import MapMaker, MapRequest, map_notices, map_request, read_picture
from cldm.model_files import ModelFiles, find_model
from cldm.records import FileHashes, Record, Runtime, WeightsFile, changes_since, check_kept, save_png, save_shown
from cldm.settings import LIMITS, PAGE_LIMITS, Limit, Settings, checked_number, with_whole_numbers
from cldm.starts import read_start

_RESOLUTIONS = Limit(256, 768, True)
_MINIATURE_RESOLUTIONS = Limit(64, 256, True)
_ALL_RESOLUTIONS = Limit(64, 2048, True)
_RUNS_KEPT = 16  # folders of PNGs; the page has copies of its own by then

MOST_UPLOADED = 64 * 2**20
"""Pixels of a visitor's picture: decoded, they take up to four bytes each, several times over."""


@dataclass(frozen=True)
class Update:
    """How far a run has come.

    Attributes:
        share: Done so far, 0 to 1.
        what: Is going on.
        control_map: PNG of the map as people see it, once it is there.
        forming: The images as far as they can be told, small: uint8 RGB (h, w, 3).
    """

    share: float
    what: str
    control_map: Path | None = None
    forming: list[np.ndarray] = field(default_factory=list)


Tell = Callable[[Update], object]
"""Called as a run proceeds; what it raises ends the run."""


@dataclass(frozen=True)
class Pictures:
    """PNG files of a run: the map as shown, then the images; the images' seeds; and what the user should know."""

    preview: Path
    images: list[Path]
    seeds: list[int] = field(default_factory=list)
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Loaded:
    """A model with what goes with it."""

    model: Any
    colours: Callable[..., list[np.ndarray]]
    hashes: Future[tuple[WeightsFile, ...]]  # of the checkpoints, then of further ControlNets, then of the config
    runtime: Runtime
    places: list[int]  # of the ControlNet of each further control


class Runner:
    """Runs an app's jobs one after the other; model and detector are loaded by the first.

    Args:
        demo: The app.
        machine: What it runs on.
        further: Controls beside the app's own, of all jobs.
        for_page: Whether jobs come from visitors, who are held to what the page has: its limits of the settings and
            the resolution, and pictures of up to 64 megapixels.
    """

    def __init__(
        self, demo: Demo, machine: Machine | None = None, further: Sequence[Further] = (), *, for_page: bool = True
    ):
        self.demo = demo
        self.machine = Machine() if machine is None else machine
        self.maps = MapMaker(demo, self.machine.device, self.machine.detector, self.machine.save_memory)
        self.further = tuple(further)
        self.hashes = FileHashes()
        self._for_page = for_page
        self._further_maps = [each.maker(self.machine.device, self.machine.save_memory) for each in further]
        self._lock = Lock()
        self._files: ModelFiles | None = None
        self._loaded: _Loaded | None = None
        self._folders: deque[TemporaryDirectory] = deque()
        self._folders_lock = Lock()

    def files(self) -> ModelFiles:
        """The model's files; looked for again until they are there.

        Raises:
            FileNotFoundError: If they are not.
            ValueError: If they cannot be what the user named.
        """
        if self._files is None:
            self._files = find_model(self.demo.control, self.machine.checkpoints, self.machine.config)
        return self._files

    def missing_beside(self) -> str:
        """Which files of detectors the further controls lack, Markdown; empty if they have all."""
        pairs = zip(self.further, self._further_maps, strict=True)
        return "\n\n".join(filter(None, (maps.missing() for each, maps in pairs if not each.values.get("is_map"))))

    def notice(self) -> str:
        """What the user should know before pressing Run, Markdown; may be empty."""
        try:
            about_model = self.files().notice
        except (OSError, ValueError) as error:
            about_model = f"**Cannot run yet**: {error}"
        missing = self.maps.missing()
        about_detector = missing and f"**Control maps only, no pictures yet**: {missing}"
        return "\n\n".join(filter(None, (about_model, about_detector)))

    def defaults(self) -> tuple[Settings, int, Limit]:
        """Settings and resolution to start with, and the resolution's limits."""
        try:
            files = self.files()
        except (OSError, ValueError):
            return Settings(), 512, _RESOLUTIONS
        limits = _RESOLUTIONS if files.resolution >= _RESOLUTIONS.lowest else _MINIATURE_RESOLUTIONS
        limits = limits if self._for_page else _ALL_RESOLUTIONS
        return files.settings, int(min(files.resolution, limits.highest)), limits

    def preview(self, values: Mapping[str, Any]) -> Pictures:
        """The control map that `run` would follow, as people see it.

        Args:
            values: As for `run`.

        Raises:
            ValueError: If the image is no picture or a value is out of its limits.
            FileNotFoundError: If the detector's file is missing.
        """
        request = self._map_request(values)
        control_map = self.maps.make(self._picture(values, request), request)
        notices = map_notices(self.demo, control_map, request.is_map)
        return Pictures(self._shown(self.new_folder(), control_map), [], notices=notices)

    def run(self, values: Mapping[str, Any], tell: Tell = lambda update: None) -> Pictures:
        """Make a control map of an image and images of the map.

        Args:
            values: "image", a file's path or a `Drawing`, "is_map", "prompt", "resolution", "detect_resolution", the
                fields of `Settings` and the options by name; "weight", "start" and "end" of the control, see
                `cldm.controls.Control`; files or pixels as "init_image" and "mask" to repaint.
            tell: See `Tell`.

        Raises:
            ValueError: If the image is no picture or a value is out of its limits.
            FileNotFoundError: If a file of weights is missing.
            FloatingPointError: If the model gave no image.
        """
        settings, request = self._settings(values), self._map_request(values)
        prompt = str(values.get("prompt") or "")
        check_kept(prompt, settings, 1 + len(self.further))
        picture = self._picture(values, request)
        tell(Update(0.0, "Making the control map"))
        control_map = self.maps.make(picture, request)
        maps = [Mapped(self.demo, control_map, request, share_of(values)), *self._mapped_beside(picture, request)]
        start = read_start(values, control_map.shape[:2])
        shown = self._shown(self.new_folder(), control_map)
        tell(Update(0.0, "Waiting for the model", shown))
        with self._lock:
            tell(Update(0.0, "Loading the model" if self._loaded is None else "Starting", shown))
            loaded = self._load()
            tell(Update(0.0, "Starting", shown))
            from cldm.pipeline import generate  # slow to import, so not before the first run

            told = _Told(tell, shown, settings, loaded.colours)
            controls = [mapped.control(model) for mapped, model in zip(maps, [0, *loaded.places], strict=True)]
            result = generate(
                loaded.model,
                controls,
                prompt,
                settings,
                progress=told.step,
                decoded=told.decoded,
                **start.arrays(),
            )
            tell(Update(1.0, "Saving", shown))
        used = replace(settings, seed=result.seeds[0])
        record = self._record(prompt, used, maps, loaded)
        record = replace(record, **start.pngs())
        folder = self.new_folder()  # not before, since others' previews may be many meanwhile
        images = self._saved(folder, result.images, result.seeds, record)
        beforehand = [notice for m in maps for notice in map_notices(m.demo, m.map, m.request.is_map)]
        notices = (*beforehand, *start.notices, *result.notices)
        return Pictures(self._shown(folder, control_map), images, result.seeds, notices)

    def changes_since(self, record: Record) -> list[str]:
        """What of this app's files and machine is not as when an image was made, a sentence each; nothing is loaded.

        Files that nobody has hashed yet are told apart by their names and sizes.
        """
        try:
            files, here = self.files(), self.hashes.known
            now = replace(
                record,
                weights=tuple(map(here, files.checkpoints)),
                control_weights=(),
                config=here(files.config),
                runtime=self._runtime(),
            )
        except (OSError, ValueError):  # which the page says of itself
            return []
        return changes_since(record, now)

    def _runtime(self) -> Runtime:
        """The model's, or what it will be."""
        if self._loaded is not None:
            return self._loaded.runtime
        from cldm.loading import choose_precision  # slow to import, so not before it is needed
        from ldm.util import choose_device

        device = choose_device(self.machine.device)
        flags = {"save_memory": self.machine.save_memory, "compile": self.machine.compile}
        return Runtime.here(device, choose_precision(self.machine.precision, device), **flags)

    def new_folder(self) -> Path:
        """For the files of one job; those of the oldest are removed."""
        folder = TemporaryDirectory(prefix="controlnet_")
        with self._folders_lock:
            self._folders.append(folder)
            oldest = self._folders.popleft() if len(self._folders) > _RUNS_KEPT else None
        if oldest is not None:
            oldest.cleanup()
        return Path(folder.name)

    def _load(self) -> _Loaded:
        """The model, loaded by the first who asks."""
        if self._loaded is None:
            from cldm.pipeline import load
            from cldm.preview import LatentColours

            files, machine = self.files(), self.machine
            beside, places = placed(files, self.further)
            flags = {"save_memory": machine.save_memory, "compile": machine.compile}
            model = load(files, machine.device, machine.precision, beside, **flags)
            if len(model.controls) < 1 + len(beside):
                raise ValueError(
                    f"{files.checkpoints[0].name} has no ControlNet for {self.demo.control}, beside which others are "
                    "to work: name it with --checkpoint as well"
                )
            dtype = model.ldm.model.diffusion_model.dtype
            self._loaded = _Loaded(
                model,
                LatentColours(model.ldm),
                self.hashes.begin([*files.checkpoints, *beside, files.config]),
                Runtime.here(model.device, dtype, **flags),
                places,
            )
        return self._loaded

    def _settings(self, values: Mapping[str, Any]) -> Settings:
        given = with_whole_numbers({f.name: values[f.name] for f in fields(Settings) if f.name in values})
        for name, limit in (PAGE_LIMITS if self._for_page else LIMITS).items():
            if name in given:
                checked_number(name, given[name], limit)
        return Settings(**given)

    def _picture(self, values: Mapping[str, Any], request: MapRequest) -> np.ndarray | Drawing:
        return read_upload(values.get("image"), MOST_UPLOADED if self._for_page else None, request.is_map)

    def _map_request(self, values: Mapping[str, Any]) -> MapRequest:
        _, default, limits = self.defaults()
        return map_request(self.demo, {"resolution": default, **values}, limits)

    def _mapped_beside(self, picture: np.ndarray | Drawing, request: MapRequest) -> list[Mapped]:
        if self.further and isinstance(picture, Drawing):
            raise ValueError("a drawing has no further controls; save it, and give it as a file")
        _, _, limits = self.defaults()
        pairs = zip(self.further, self._further_maps, strict=True)
        return [each.map_of(maps, picture, request.resolution, limits) for each, maps in pairs]

    def _record(self, prompt: str, settings: Settings, maps: Sequence[Mapped], loaded: _Loaded) -> Record:
        """Of the first image of a batch."""
        *weights, config = loaded.hashes.result()
        own, places = len(self.files().checkpoints), [0, *loaded.places]
        return Record(
            prompt,
            settings,
            settings.seed,
            controls=tuple(mapped.record(place, places[place]) for place, mapped in enumerate(maps)),
            resolution=maps[0].request.resolution,
            weights=tuple(weights[:own]),
            control_weights=tuple(weights[own:]),
            config=config,
            runtime=loaded.runtime,
            pooled=loaded.model.pooled,
        )

    def _shown(self, folder: Path, control_map: np.ndarray) -> Path:
        brought = self.demo.network(control_map)
        return save_shown(folder / f"{self.demo.name}_map.png", self.demo.preview(brought), brought)

    def _saved(self, folder: Path, images: list[np.ndarray], seeds: list[int], record: Record) -> list[Path]:
        return [
            save_png(folder / f"{self.demo.name}_{seed}.png", image, replace(record, seed=seed, index=index))
            for index, (image, seed) in enumerate(zip(images, seeds, strict=True))
        ]


class _Told:
    """What a generation tells, as updates: steps first, then images as they are decoded."""

    def __init__(self, tell: Tell, shown: Path, settings: Settings, colours: Callable[..., list[np.ndarray]]):
        self._tell, self._shown, self._images, self._colours = tell, shown, settings.images, colours
        self._work = settings.steps * len(settings.batches()) + settings.images
        self._forming: list[np.ndarray] = []

    def step(self, done: int, steps: int, z: Tensor) -> None:
        self._forming = self._colours(z)
        self._update(steps - done + self._images, f"Step {done} of {steps}")

    def decoded(self, done: int) -> None:
        self._update(self._images - done, f"Image {done} of {self._images} decoded")

    def _update(self, left: int, what: str) -> None:
        self._tell(Update(1 - left / self._work, what, self._shown, self._forming))


def read_upload(
    given: str | Path | Drawing | None, most_pixels: int | None = MOST_UPLOADED, is_map: bool = False
) -> np.ndarray | Drawing:
    """Pixels of a visitor's picture, as `cldm.maps.read_picture` has them; a drawing is itself.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If none is given, or it is damaged, no picture, or larger than `most_pixels`.
    """
    if given is None:
        raise ValueError("expected an image, got none: upload one, then press Run")
    return given if isinstance(given, Drawing) else read_picture(given, is_map, most_pixels)
