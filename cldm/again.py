"""An image made again from its record alone: the same files, the same batch, and the bytes of the first time."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cldm.controls import Control
from cldm.model_files import MODELS, ModelFiles
from cldm.pipeline import LoadedModel, Progress, generate, load
from cldm.records import FLAGS, FileHashes, Record, Runtime, WeightsFile, changes_since, pixels_of
from cldm.weights.folders import weights_file
from ldm.util import choose_device

_SHARE = {field.name for field in fields(Control)} - {"map"}


@dataclass(frozen=True)
class Source:
    """Files and a machine's settings to use in the place of those that a record tells of; None is the record's.

    Attributes:
        checkpoints: The model's files, or folders in diffusers' layout, as many as the record has; none to find those.
        config: The yaml.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32, bfloat16 or float16.
        save_memory: Whether what is not in use leaves the accelerator.
        compile: Whether the networks are compiled.
        folder: Looked through for files of the record's hashes, beside the places where they were last seen.
    """

    checkpoints: tuple[Path, ...] = ()
    config: Path | None = None
    device: str | None = None
    precision: str | None = None
    save_memory: bool | None = None
    compile: bool | None = None
    folder: Path = MODELS


class Made(NamedTuple):
    """An image made again.

    Attributes:
        image: uint8 RGB, (h, w, 3).
        record: Of what it was made now; the first time's, if nothing has changed.
        changes: What is not as it was, a sentence each, and so may change the image.
    """

    image: np.ndarray
    record: Record
    changes: list[str]


class Again:
    """Makes images again; a model, and the images of a batch, are kept for the next record of the same.

    Args:
        source: Where to take from what the record does not hold.
        hashes: Of files.
    """

    def __init__(self, source: Source | None = None, hashes: FileHashes | None = None):
        self._source = Source() if source is None else source
        self._hashes = FileHashes() if hashes is None else hashes
        self._loaded: tuple[tuple, LoadedModel] | None = None
        self._batch: tuple[Record, list[np.ndarray]] | None = None

    def make(self, record: Record, progress: Progress | None = None) -> Made:
        """Make the image of a record.

        On the CPU, sums are divided among as many threads as they were; the process keeps that number.

        Args:
            record: See `cldm.records.read_record`.
            progress: See `cldm.pipeline.Progress`.

        Raises:
            FileNotFoundError: If there is no file of a hash that the record has.
            ValueError: If the record is of no image that can be made, or a given file is no weights.
            FloatingPointError: If the model gave values that are no numbers.
        """
        found = _Files.of(record, self._source, self._hashes)
        device, changes = self._device(record)
        model = self._model(found, record, device)
        _share_alike(record, device)
        runtime = Runtime.here(model.device, model.ldm.model.diffusion_model.dtype, **self._flags(record))
        now = replace(
            record,
            weights=found.hashed(found.weights, self._hashes),
            control_weights=found.hashed(found.control_weights, self._hashes),
            config=self._hashes.of(found.config),
            runtime=runtime,
        )
        batch = _batch_of(record)
        first = replace(now, seed=now.settings.seeds()[batch.start], index=batch.start)
        if self._batch is None or self._batch[0] != first:
            self._batch = first, generate_again(model, record, progress)
        changes += changes_since(record, now)
        return Made(self._batch[1][record.index - batch.start], now, changes)

    def _device(self, record: Record) -> tuple[torch.device, list[str]]:
        wanted = self._source.device or (record.runtime.device if record.runtime else "auto")
        try:
            return choose_device(wanted), []
        except ValueError as error:
            if self._source.device is not None:
                raise
            return choose_device("auto"), [f"the image's device is not here: {error}"]

    def _flags(self, record: Record) -> dict[str, Any]:
        """The record's, but where the source has others."""
        others = {name: value for name in FLAGS if (value := getattr(self._source, name)) is not None}
        return {**(record.runtime.flags if record.runtime else {}), **others}

    def _model(self, found: "_Files", record: Record, device: torch.device) -> LoadedModel:
        flags = self._flags(record)
        precision = self._source.precision or (record.runtime.precision if record.runtime else "auto")
        known = {name: bool(flags.get(name, False)) for name in FLAGS}
        key = (found, str(device), precision, record.pooled, *known.items())
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = self._batch = None  # before another comes
            files = ModelFiles(found.config, found.weights)
            pooled = dict.fromkeys(record.pooled, True)  # as their files say of the others
            self._loaded = key, load(files, device, precision, found.control_weights, pooled=pooled, **known)
        return self._loaded[1]


def generate_again(model: LoadedModel, record: Record, progress: Progress | None = None) -> list[np.ndarray]:
    """The images that were drawn at once with a record's, that one among them, uint8 RGB (h, w, 3) each.

    Args:
        model: Of the files that the record names.
        record: Of one of them.
        progress: See `cldm.pipeline.Progress`.

    Raises:
        ValueError: If the record is of no image that can be made.
        FloatingPointError: If the model gave values that are no numbers.
    """
    if record.settings.seeds()[record.index] != record.seed:
        raise ValueError(
            f"expected the image {record.index} of a batch to have the seed {record.settings.seeds()[record.index]}, "
            f"its record says {record.seed}"
        )
    for control in record.controls:
        if unknown := set(control.share) - _SHARE:
            raise ValueError(f"a control has {', '.join(sorted(unknown))}, unknown to this version; update the project")
    controls = [Control(pixels_of(control.png), **control.share) for control in record.controls]
    start, mask = (None if png is None else pixels_of(png) for png in (record.init_image, record.mask))
    batch = _batch_of(record)
    settings = replace(record.settings, seed=record.settings.seeds()[batch.start], images=len(batch))
    result = generate(model, controls, record.prompt, settings, progress, image=start, mask=mask, size=record.size)
    return result.images


def _batch_of(record: Record) -> range:
    """Places of the images that were drawn at once with the record's."""
    return next(batch for batch in record.settings.batches() if record.index in batch)


@dataclass(frozen=True)
class _Files:
    """What a model is loaded from."""

    config: Path
    weights: tuple[Path, ...]
    control_weights: tuple[Path, ...]

    @classmethod
    def of(cls, record: Record, source: Source, hashes: FileHashes) -> "_Files":
        """The given files, or else those of the record's hashes."""

        def found(file: WeightsFile) -> Path:
            return hashes.find(file, (source.folder,)) or _not_found(file, source.folder)

        if record.config is None or not record.weights:
            raise ValueError("the record does not say which weights the image was made with")
        given = tuple(map(weights_file, source.checkpoints))
        if given and len(given) != len(record.weights):
            names = ", ".join(file.name for file in record.weights)
            raise ValueError(f"the image was made with {len(record.weights)} files ({names}), given are {len(given)}")
        for path in (*given, *([source.config] if source.config else [])):
            if not path.is_file():
                raise FileNotFoundError(f"no file at {path}; give the path of an existing one")
        return cls(
            source.config or found(record.config),
            given or tuple(map(found, record.weights)),
            tuple(map(found, record.control_weights)),
        )

    @staticmethod
    def hashed(paths: Sequence[Path], hashes: FileHashes) -> tuple[WeightsFile, ...]:
        return tuple(map(hashes.of, paths))


def _not_found(file: WeightsFile, folder: Path) -> Path:
    other = folder / file.name
    there = f"; {other} is another file of that name" if other.is_file() else ""
    flag = "--config" if file.name.endswith((".yaml", ".yml")) else "--checkpoint"
    raise FileNotFoundError(
        f"no file here has the content of {file.name} ({file.bytes} bytes, SHA-256 {file.short_hash}), which "
        f"the image was made with: looked for where such a file was last seen, and in {folder}{there}. Get it, or name "
        f"another with {flag}, which will make another image"
    )


def _share_alike(record: Record, device: torch.device) -> None:
    """Divide sums as they were, where that changes how they are rounded."""
    wanted = record.runtime.threads if record.runtime else 0
    if device.type == "cpu" and 0 < wanted <= (os.cpu_count() or 1):
        torch.set_num_threads(wanted)
