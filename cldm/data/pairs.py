"""A sample's files as one control map and one image, of the channels and the size that are trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from cldm.data.errors import DataError
from cldm.data.framing import Framing, Placement, Size
from cldm.data.images import File, check_hint, check_image, image_size, is_array, read_hint, read_image
from ldm.models.diffusion.draws import INDEX

AS_THEY_ARE = Framing()
_RGB = 3


class Sample(Protocol):
    """What a row of a folder and a sample of a shard have in common; as a text, each says where it is."""

    @property
    def sources(self) -> Sequence[File]: ...

    @property
    def target(self) -> File: ...

    @property
    def prompt(self) -> str: ...

    @property
    def label(self) -> str: ...


def read_pair(
    sample: Sample, framing: Framing = AS_THEY_ARE, hint_channels: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A sample's control map and image, of one size.

    A control map in one greyscale image is repeated to three channels, unless the model's are known to be others.

    Args:
        sample: A `Row`, or a sample of a shard.
        framing: How they come into the size that is trained.
        hint_channels: The model's; None takes as many as there are.

    Returns:
        The map, (h, w, c): uint8 where all its files have 8 bits a channel, else float32 in [0, 1]. The image, uint8
        RGB (h, w, 3).

    Raises:
        FileNotFoundError: If a file is missing.
        DataError: If one is unreadable, or their sizes or channels are not right. All of them name the sample.
    """
    with naming(sample):
        parts, image = [read_hint(file) for file in sample.sources], read_image(sample.target)
        hint, place = _framed(sample, parts, image.shape[1::-1], framing, hint_channels)
        return hint, framing.target(image, place)


def read_hint_alone(sample: Sample, framing: Framing = AS_THEY_ARE, hint_channels: int | None = None) -> np.ndarray:
    """The control map of `read_pair` and its errors, but of the image the header alone is read."""
    with naming(sample):
        parts = [read_hint(file) for file in sample.sources]
        return _framed(sample, parts, image_size(sample.target), framing, hint_channels)[0]


def _framed(
    sample: Sample, parts: Sequence[np.ndarray], image: Size, framing: Framing, hint_channels: int | None
) -> tuple[np.ndarray, Placement]:
    """A control map of its files' arrays for an image of a size, and where both go."""
    repeats = _repeats(sample.sources, [part.shape[2] for part in parts], hint_channels)
    place = framing.place(image, [part.shape[1::-1] for part in parts])
    hint = _stacked([framing.hint(part, place) for part in parts])
    return np.repeat(hint, repeats, axis=2) if repeats > 1 else hint, place


def check_pair(
    sample: Sample, framing: Framing = AS_THEY_ARE, hint_channels: int | None = None
) -> tuple[tuple[int, int], int]:
    """The size, (width, height), and the hint's channels that `read_pair` would give, found without decoding PNG files.

    Raises:
        ValueError: With all that is wrong with the files.
    """
    problems, hints, size = [], [], None
    for file in sample.sources:
        try:
            hints.append(check_hint(file))
        except (OSError, ValueError) as error:
            problems.append(str(error))
    try:
        size = check_image(sample.target)
    except (OSError, ValueError) as error:
        problems.append(str(error))
    if problems:
        raise ValueError("; ".join(problems))
    channels = [count for _, count in hints]
    repeats = _repeats(sample.sources, channels, hint_channels)
    framing.place(size, [source for source, _ in hints])
    return framing.size or size, sum(channels) * repeats


def unit_range(hint: np.ndarray) -> np.ndarray:
    """A control map as float32 in [0, 1]."""
    return hint.astype(np.float32) / 255 if hint.dtype == np.uint8 else hint


class Indexed:
    """A dataset whose items say their place in it, as `sample_index`, by which the model draws noise and the like.

    Args:
        dataset: Of torch's kind, with a length; its items are dictionaries.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], INDEX: index}


@contextmanager
def naming(sample: Sample) -> Iterator[None]:
    """Puts a sample's place before what goes wrong with it."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{sample}: {error}") from error
    except ValueError as error:
        raise DataError(f"{sample}: {error}") from error


def _repeats(files: Sequence[File], channels: Sequence[int], wanted: int | None) -> int:
    """How often a control map's channels are repeated, 1 or 3.

    Raises:
        ValueError: If it has not the wanted number of channels.
    """
    given = sum(channels)
    one_grey_image = len(files) == 1 and given == 1 and not is_array(files[0])
    if given == wanted or (wanted is None and not one_grey_image):
        return 1
    if one_grey_image and wanted in (None, _RGB):
        return _RGB
    each = ", ".join(f"{file} has {count}" for file, count in zip(files, channels, strict=True))
    raise ValueError(
        f"the model takes {wanted} hint channels, got {given}: {each}. Greyscale images have 1, coloured ones 3; save "
        f"them as the other, or train a model whose yaml has hint_channels: {given}"
    )


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    if len(parts) == 1:
        return parts[0]
    if any(part.dtype != np.uint8 for part in parts):
        parts = [unit_range(part) for part in parts]
    return np.concatenate(parts, axis=2)
