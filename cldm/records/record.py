"""Everything that one saved image follows from."""

import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cldm.settings import Settings

_PACKAGES = ("controlnet", "torch", "numpy", "opencv-python-headless", "open-clip-torch", "pillow")
"""Ours, and those whose versions change maps, tokens, pixels or files."""
FLAGS = ("save_memory", "compile")
"""Of a `Runtime`, that a model is loaded with."""

MOST_TEXT = 20_000  # characters of one text
MOST_CONTROLS = 16


def check_kept(prompt: str, settings: Settings, controls: int) -> None:
    """Check that a record can be of so much; to be asked before the work on an image.

    Raises:
        ValueError: If a text is longer than a record keeps, or there are more control maps.
    """
    texts = {"prompt": prompt, "added_prompt": settings.added_prompt, "negative_prompt": settings.negative_prompt}
    for name, text in texts.items():
        if len(text) > MOST_TEXT:
            raise ValueError(f"{name} must have at most {MOST_TEXT} characters, got {len(text)}; shorten it")
    if controls > MOST_CONTROLS:
        raise ValueError(f"expected at most {MOST_CONTROLS} control maps, got {controls}; leave some out")


@dataclass(frozen=True)
class WeightsFile:
    """A file that a model was loaded from; where it was is nobody else's business.

    Attributes:
        name: Without folders.
        bytes: Its size.
        sha256: Of its content, 64 hexadecimal digits.
    """

    name: str
    bytes: int
    sha256: str

    @property
    def short_hash(self) -> str:
        """The beginning of the hash, for messages."""
        return f"{self.sha256[:12]}..."


@dataclass(frozen=True)
class ControlMap:
    """A control map and where it is from.

    Attributes:
        kind: Of control, as published model files name it, such as "canny"; may be empty.
        png: The map as the network saw it, see `cldm.records.png_of`.
        is_map: Whether the input was a map already, so that no detector was asked.
        options: Of its detector, by name: numbers, texts, True or False.
        share: What its ControlNet was told, by name, such as a weight of its own.
    """

    kind: str
    png: bytes
    is_map: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    share: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Runtime:
    """What did the work: on another device or with another version, images differ within rounding or more.

    Attributes:
        device: Such as "cpu" or "cuda:0"; not "auto".
        precision: "float32", "bfloat16" or "float16"; not "auto".
        threads: Of the CPU, among which sums are divided.
        flags: Whatever else of the machine's settings changes images within rounding, such as "save_memory".
        versions: Of Python, this project and packages, by name.
    """

    device: str
    precision: str
    threads: int
    flags: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls, device: Any, dtype: Any, **flags: Any) -> "Runtime":
        """This process's.

        Args:
            device: The model's `torch.device`.
            dtype: Its networks' `torch.dtype`.
            flags: See the attribute.
        """
        import torch

        return cls(str(device), str(dtype).removeprefix("torch."), torch.get_num_threads(), flags, versions_here())


@dataclass(frozen=True)
class Record:
    """Everything that one image follows from.

    Attributes:
        prompt: Without the added prompt, which is one of the settings.
        settings: Of the whole batch: its first seed, never -1, and how many images it had.
        seed: This image's.
        index: This image's in its batch, from 0. Alone it would be the same within rounding, in its batch to the bit.
        controls: Maps, in the order of their ControlNets; none for an image without control.
        resolution: Of the short side, as asked for; None where the map's size decided.
        size: Height and width, where neither a map nor an image to start from has them.
        init_image: What image-to-image or inpainting began with, a PNG.
        mask: Of inpainting, a PNG.
        weights: The model's files, in the order in which they were given.
        control_weights: Files of ControlNets beside the model's own.
        config: The yaml.
        runtime: See `Runtime`.
        pooled: Places of the ControlNets whose outputs were averaged over the image, the model's own being 0.

    Raises:
        ValueError: If the image is none of the batch, or there is more than a record keeps, see `check_kept`.
    """

    prompt: str
    settings: Settings
    seed: int
    index: int = 0
    controls: tuple[ControlMap, ...] = ()
    resolution: int | None = None
    size: tuple[int, int] | None = None
    init_image: bytes | None = None
    mask: bytes | None = None
    weights: tuple[WeightsFile, ...] = ()
    control_weights: tuple[WeightsFile, ...] = ()
    config: WeightsFile | None = None
    runtime: Runtime | None = None
    pooled: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_kept(self.prompt, self.settings, len(self.controls))
        if not 0 <= self.index < self.batch_size:
            raise ValueError(f"index must be from 0 to {self.batch_size - 1} in a batch of that size, got {self.index}")
        if self.settings.seed < 0 or self.seed < 0:
            raise ValueError(f"a record needs the seeds that were used, got {self.settings.seed} and {self.seed}")

    @property
    def batch_size(self) -> int:
        return self.settings.images


def versions_here() -> dict[str, str]:
    """Python's version, and those of this project and of what it computes with; "unknown" if not installed as such."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
