"""What all detectors share: image checks and sizes, the device, finding and loading a checkpoint."""

import math
import pickle
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from annotator.manifest import DETECTOR_FILES

CHECKPOINT_FOLDER = Path(__file__).parent / "ckpts"
_SIZE_STEP = 64  # Stable Diffusion's images have sides that are multiples of it
_LONGEST_SIDE = 32768  # beyond it a resized strip is a mistake, and would fill the memory
_DAMAGED = (  # what reading a cut or altered pickle, archive or safetensors file raises, depending on where it is hurt
    pickle.UnpicklingError,
    SafetensorError,
    struct.error,
    AssertionError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def HWC3(image: np.ndarray) -> np.ndarray:
    """Check an image and make it RGB: grey is repeated, alpha is blended onto white.

    Args:
        image: uint8, (h, w), (h, w, 1), (h, w, 3) RGB or (h, w, 4) RGBA.

    Returns:
        uint8 RGB, (h, w, 3), contiguous; `image` itself where that is so already.

    Raises:
        ValueError: If it is anything else, or has no pixels.
    """
    wanted = "expected an image as a uint8 array (h, w, 3) in RGB, grey (h, w) or RGBA (h, w, 4)"
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{wanted}, got {type(image).__name__}; convert it with numpy.asarray")
    if image.dtype != np.uint8:
        raise ValueError(f"{wanted}, got the dtype {image.dtype}; scale it to 0..255 and convert it to uint8")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ValueError(f"{wanted}, got the shape {image.shape}")
    if image.size == 0:
        raise ValueError(f"{wanted}, got an empty one of the shape {image.shape}")
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    elif image.shape[2] == 4:
        alpha = image[:, :, 3:].astype(np.float32) / 255
        image = np.rint(image[:, :, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(image)


check_image = HWC3
"""What every detector does first with its input."""


def resize_image(image: np.ndarray, resolution: int) -> np.ndarray:
    """Scale the short side to `resolution`, both sides to the nearest multiple of 64; Lanczos up, area down.

    Args:
        image: uint8, (h, w, c).
        resolution: Wanted length of the short side in pixels, positive.

    Raises:
        ValueError: If `resolution` is not positive, or the long side would become too long to work with.
    """
    if resolution <= 0:
        raise ValueError(f"resolution must be a positive number of pixels, got {resolution}")
    height, width = image.shape[:2]
    scale = resolution / min(height, width)
    size = _to_multiple(height * scale, _SIZE_STEP), _to_multiple(width * scale, _SIZE_STEP)
    return resize(image, size, cv2.INTER_LANCZOS4 if scale > 1 else cv2.INTER_AREA)


def resize_to_multiple(image: np.ndarray, multiple: int, at_most: float = math.inf) -> np.ndarray:
    """Scale both sides to the nearest multiple that a network needs, at least one of it.

    Args:
        image: uint8, (h, w, c).
        multiple: Of pixels, such as 16.
        at_most: About how many pixels the result may have; larger images are scaled down.

    Raises:
        ValueError: If a side is too long to work with.
    """
    height, width = image.shape[:2]
    scale = min(math.sqrt(at_most / (height * width)), 1)
    size = _to_multiple(height * scale, multiple), _to_multiple(width * scale, multiple)
    grows = size[0] * size[1] > height * width
    return resize(image, size, cv2.INTER_LANCZOS4 if grows else cv2.INTER_AREA)


def resize(image: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """Scale an image or map to `size`, (height, width), with one of OpenCV's interpolations.

    Raises:
        ValueError: If a side would become too long to work with.
    """
    height, width = size
    if max(height, width) > _LONGEST_SIDE:
        raise ValueError(
            f"an image of {image.shape[0]} x {image.shape[1]} (height x width) would be scaled to {height} x {width}; "
            "crop it to a less extreme shape, or ask for a lower resolution"
        )
    return cv2.resize(image, (width, height), interpolation=interpolation)


def _to_multiple(side: float, multiple: int) -> int:
    return max(round(side / multiple), 1) * multiple


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device of that name; "auto" is the first that is there of cuda, mps and cpu.

    Raises:
        ValueError: If the name is no device, or this machine does not have it.
    """
    if str(device) == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        return torch.device(next(name for name, available in there.items() if available))
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {device!r} cannot be used here: {error}; use auto, cpu, cuda, cuda:N or mps"
        ) from error
    return chosen


def find_checkpoint(file: str, given: str | Path | None = None) -> Path:
    """Where a detector's checkpoint is: at `given`, or in `annotator/ckpts/`.

    Args:
        file: Name of a published file, one of `annotator.manifest.DETECTOR_FILES`.
        given: The user's `checkpoint=`: a file, or a folder with a file of the published name.

    Raises:
        FileNotFoundError: If it is not there; says where it is published and the command that gets it.
    """
    path = CHECKPOINT_FOLDER / file if given is None else Path(given).expanduser()
    if path.is_dir():
        path = path / file
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}. {_how_to_get(file)}")
    return path


def load_network(network: nn.Module, path: str | Path, ignore: Iterable[str] = ()) -> nn.Module:
    """Load a checkpoint into `network`, strictly, and make the network ready for use.

    Nothing in the file is ever run as code.

    Args:
        network: Its state dict has the published names. Changed in place.
        path: A `.safetensors` file, or a pickle of tensors, bare or as {"state_dict": tensors}.
        ignore: Names, or leading parts of names up to a dot, that the file has and the network does not use.

    Returns:
        `network` in evaluation mode, without gradients, in its own dtype.

    Raises:
        ValueError: If the file is damaged or no checkpoint, or its names or shapes are not the network's.
    """
    path = Path(path)
    unused = tuple(ignore)
    state = {
        name: tensor
        for name, tensor in read_tensors(path).items()
        if not any(name == part or name.startswith(f"{part}.") for part in unused)
    }
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{path} is no checkpoint of {type(network).__name__}: {_shortened(str(error))}. {_how_to_get(path.name)}"
        ) from error
    return network.eval().requires_grad_(False)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint on the CPU, taken out of {"state_dict": ...}.

    Raises:
        ValueError: If the file is damaged, or is something else than a dictionary of tensors.
    """
    path = Path(path)
    path.open("rb").close()  # a file that may not be read has an error of its own
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except _DAMAGED as error:
        raise ValueError(
            f"cannot read {path} ({path.stat().st_size} bytes) as a checkpoint ({type(error).__name__}): it is cut "
            f"short, damaged, or holds something else than tensors and plain data. {_how_to_get(path.name)}"
        ) from error
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"expected {path} to hold a dictionary of tensors. {_how_to_get(path.name)}")
    return content


def _unpickled(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _how_to_get(file: str) -> str:
    """Says what a published file is, and the command that gets it."""
    for name, entry in DETECTOR_FILES.items():
        if entry.file == file:
            source = entry.sources[0]
            return (
                f"Expected is {file} (about {entry.megabytes:g} MB), published as {source.path} in "
                f"https://huggingface.co/{source.repository}. Run `python tool_download.py {name}` to put it into "
                f"{CHECKPOINT_FOLDER}, or pass {entry.argument}=PATH if it is elsewhere."
            )
    return "Pass the file published for this detector as checkpoint=PATH, see annotator/manifest.py."


def _shortened(message: str, limit: int = 400) -> str:
    words = " ".join(message.split())
    return words if len(words) <= limit else f"{words[:limit]} ..."
