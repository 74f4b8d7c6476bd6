"""ControlNets beside an app's own: each with a map of its own, a weight and a share of the steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from cldm.apps import Demo
from cldm.controls import Control
from cldm.maps import MapMaker, MapRequest, map_request, read_picture
from cldm.model_files import ModelFiles, find_model
from cldm.records import ControlMap, png_of
from cldm.settings import Limit
from cldm.weights.folders import weights_file

SHARE = tuple(f.name for f in fields(Control) if f.name not in ("map", "model"))
"""What a control is told of its part, by name: its weight, and where in the steps it starts and ends."""


@dataclass(frozen=True)
class Further:
    """One more control of all jobs.

    Attributes:
        demo: The app whose detector makes its map.
        checkpoint: Its ControlNet, a file of any known shape or diffusers' folder; None is the one that `demo` would
            take by itself.
        detector: The detector's weights, a file or folder; None is `annotator/ckpts/`.
        values: "image", a file to make the map of instead of the job's, "is_map", "detect_resolution", the detector's
            options, and "weight", "start" and "end" of `Control`.

    Raises:
        ValueError: If there is a value of another name, or weights are given to a detector that has none.
    """

    demo: Demo
    checkpoint: str | None = None
    detector: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {"image", "is_map", *SHARE, *(option.name for option in self.demo.options)}
        known |= {"detect_resolution"} if self.demo.detect_at is not None else set()
        if unknown := set(self.values) - known:
            raise ValueError(
                f"{self.demo.name} has no {', '.join(sorted(unknown))} as a further control; it has "
                f"{', '.join(sorted(known))}; what is for all controls goes before"
            )
        if self.detector is not None and not self.demo.weights:
            raise ValueError(f"{self.demo.name} has no detector with weights, got {self.detector!r}; leave it out")

    def file(self) -> Path:
        """Its ControlNet's; of a folder, the weights in it.

        Raises:
            FileNotFoundError: If there is none.
        """
        if self.checkpoint is None:
            return find_model(self.demo.control).checkpoints[-1]
        path = weights_file(self.checkpoint)
        if not path.is_file():
            raise FileNotFoundError(f"no file at {path}; give the path of an existing ControlNet")
        return path

    def maker(self, device: str, save_memory: bool = False) -> MapMaker:
        """Makes its maps."""
        return MapMaker(self.demo, device, self.detector, save_memory)

    def map_of(self, maker: MapMaker, picture: np.ndarray, resolution: int, limits: Limit) -> "Mapped":
        """Its map of a job's picture, or of its own.

        Raises:
            ValueError: If the picture or a value is not possible.
            FileNotFoundError: If the detector's weights are missing.
        """
        request = map_request(self.demo, {**self.values, "resolution": resolution}, limits)
        own = self.values.get("image")
        found = maker.make(picture if own is None else read_picture(own, request.is_map), request)
        return Mapped(self.demo, found, request, share_of(self.values))


@dataclass(frozen=True, eq=False)
class Mapped:
    """A map, how it was made, and what its ControlNet is told."""

    demo: Demo
    map: np.ndarray
    request: MapRequest
    share: Mapping[str, float] = field(default_factory=dict)

    def control(self, model: int) -> Control:
        """For `cldm.pipeline.generate`; `model` is the place of its ControlNet."""
        return Control(self.map, **self.share, model=model)

    def record(self, place: int, model: int) -> ControlMap:
        """For the image's record; `place` is the control's own."""
        request = self.request
        options = dict(zip((slider.name for slider in self.demo.options), request.options, strict=True))
        if request.detect_resolution is not None:
            options["detect_resolution"] = request.detect_resolution
        share = dict(self.share) if model == place else {**self.share, "model": model}
        used = {} if request.is_map else options
        return ControlMap(self.demo.control, png_of(self.map), request.is_map, used, share)


def share_of(values: Mapping[str, Any]) -> dict[str, float]:
    """What of a job's values a control is told of its part."""
    return {name: values[name] for name in SHARE if name in values}


def places(files: ModelFiles, further: Sequence[Further]) -> tuple[list[Path], list[int]]:
    """Files of ControlNets to load beside the model's, each once, and the place of each further control's among all.

    The model's own ControlNet has the place 0.

    Raises:
        FileNotFoundError: If a file is missing.
    """
    beside, found = [], []
    for path in (each.file() for each in further):
        if path in files.checkpoints:
            found.append(0)
            continue
        if path not in beside:
            beside.append(path)
        found.append(1 + beside.index(path))
    return beside, found
