"""What all detectors share: image checks and sizes, the device, finding and loading a checkpoint."""

import math
import pickle
import shlex
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
annotator_ckpts_path = str(CHECKPOINT_FOLDER)
"""As users' own detectors import it."""

_STRIP = 256  # rows, of large images
_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")  # of files of weights
_SIZE_STEP = 64  # Stable Diffusion's images have sides that are multiples of it
_LONGEST_SIDE = 32768  # that is scaled to; beyond it a strip is a mistake, and would fill the memory
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
        image = _on_white(image)
    return np.ascontiguousarray(image)


def _on_white(image: np.ndarray) -> np.ndarray:
    """RGB of RGBA, in strips: numbers of more than eight bits take no memory for the whole image."""
    blended = np.empty((*image.shape[:2], 3), np.uint8)
    for top in range(0, len(image), _STRIP):
        strip = image[top : top + _STRIP].astype(np.uint16)
        alpha = strip[:, :, 3:]
        blended[top : top + _STRIP] = (strip[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return blended


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
    size = size_at(image.shape[:2], resolution)
    return resize(image, size, cv2.INTER_LANCZOS4 if resolution > min(image.shape[:2]) else cv2.INTER_AREA)


def size_at(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """The size to which `resize_image` scales one of `size`; both are (height, width)."""
    height, width = (_to_multiple(side * (resolution / min(size)), _SIZE_STEP) for side in size)
    return height, width


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
    """Scale an image or map to `size`, (height, width), with one of OpenCV's interpolations; gives a copy if it has it.

    Raises:
        ValueError: If a side would become too long to work with.
    """
    height, width = size
    if image.shape[:2] == (height, width):
        return image.copy()
    if max(height, width) > _LONGEST_SIDE:
        raise ValueError(
            f"an image of {image.shape[0]} x {image.shape[1]} (height x width) would be scaled to {height} x {width}; "
            f"crop it to a less extreme shape, of sides of at most {_LONGEST_SIDE}, or ask for a lower resolution"
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


def checkpoint_path(file: str, given: str | Path | None = None) -> Path:
    """Where `find_checkpoint` looks; what is not there and does not end as a file of weights does is a folder."""
    path = CHECKPOINT_FOLDER if given is None else Path(given).expanduser()
    return path if path.is_file() or (path.suffix in _SUFFIXES and not path.is_dir()) else path / file


def find_checkpoint(file: str, given: str | Path | None = None) -> Path:
    """Where a detector's checkpoint is: at `given`, or in `annotator/ckpts/`.

    Args:
        file: Name of a published file, one of `annotator.manifest.DETECTOR_FILES`.
        given: The user's `checkpoint=`: a file, or a folder with a file of the published name.

    Raises:
        FileNotFoundError: If it is not there; says where it is published and the command that gets it.
    """
    path = checkpoint_path(file, given)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}. {_how_to_get(path, file)}")
    return path


def download_command(name: str, folder: Path | None = None, replace: bool = False) -> str:
    """What to run for one of the `DETECTOR_FILES` to be in a folder, by default where it belongs."""
    there = folder is None or folder.absolute() == CHECKPOINT_FOLDER.absolute()
    to = "" if there else f" --to {shlex.quote(str(folder.absolute()))}"
    return f"python tool_download.py {name}{to}{' --replace' if replace else ''}"


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
        MemoryError: If memory does not do for it.
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
            f"{path} is no checkpoint of {type(network).__name__}: {_shortened(str(error))}. {_how_to_get(path)}"
        ) from error
    return network.eval().requires_grad_(False)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint on the CPU, taken out of {"state_dict": ...}.

    Raises:
        MemoryError: If memory does not do for them.
        ValueError: If the file is damaged, or is something else than a dictionary of tensors.
    """
    path = Path(path)
    path.open("rb").close()  # a file that may not be read has an error of its own
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except _DAMAGED as error:
        words = str(error).lower()
        if "alloc" in words and "memory" in words:  # as torch and the system say that there is too little
            raise MemoryError(f"out of memory while {path} ({path.stat().st_size} bytes) was loaded") from error
        raise ValueError(
            f"cannot read {path} ({path.stat().st_size} bytes) as a checkpoint ({type(error).__name__}): it is cut "
            f"short, damaged, or holds something else than tensors and plain data. {_how_to_get(path)}"
        ) from error
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"expected {path} to hold a dictionary of tensors. {_how_to_get(path)}")
    return content


def check_finite(output: Tensor) -> Tensor:
    """A network's output itself.

    Raises:
        ValueError: If a value is not finite; such a map would pass for one of an image with nothing in it.
    """
    if not output.isfinite().all():
        raise ValueError("the network's output is not finite; check that the checkpoint is the published one")
    return output


def _unpickled(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _how_to_get(path: Path, file: str = "") -> str:
    """Says what a published file is, and the command that gets it to where `path` is, or in the place of a wrong one.

    Args:
        path: Where it is looked for.
        file: Its published name; that of `path` if not given.
    """
    for name, entry in DETECTOR_FILES.items():
        if entry.file == (file or path.name):
            source, wrong = entry.sources[0], path.is_file()
            given = "" if path.name == entry.file else f" and give {path.parent / entry.file}"
            return (
                f"Expected is {entry.file} (about {entry.megabytes:g} MB), published as {source.path} in "
                f"https://huggingface.co/{source.repository}. Run `{download_command(name, path.parent, wrong)}` to "
                f"{'replace it' if wrong else f'put it into {path.parent}'}{given}, or pass {entry.argument}=PATH if "
                "it is elsewhere (--checkpoints FOLDER or --detector FILE of a tool)."
            )
    return "Pass the file published for this detector as checkpoint=PATH, see annotator/manifest.py."


def _shortened(message: str, limit: int = 400) -> str:
    words = " ".join(message.split())
    return words if len(words) <= limit else f"{words[:limit]} ..."
