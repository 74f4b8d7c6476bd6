"""A look at a whole dataset before hours are spent on it: bad samples, sizes, a contact sheet."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from cldm.data import BadRow, Framing, Row, Sample, check_pair, read_pair, try_rows, unit_range
from cldm.data.pairs import AS_THEY_ARE
from cldm.data.shards import Shards, as_sample, find_shards

_CHUNK = 256  # rows that a thread takes at once
_SHEET_PAIRS = 12
_SHEET_COLUMNS = 3
_THUMBNAIL = 160  # pixels, longest side
_GAP = 8
_LINES = 2  # of a prompt, at most
_FONT_SIZE = 13

Size = tuple[int, int]


@dataclass(frozen=True)
class BadSample:
    """A sample of a shard that cannot be used, or the rest of a shard that cannot be read."""

    problem: str

    def __str__(self) -> str:
        return self.problem


@dataclass
class Report:
    """What a check found.

    Attributes:
        good: Samples that can be trained on: all rows of a folder; of shards some, spread evenly, to be shown.
        bad: Those that cannot, in the dataset's order.
        sizes: Of the good ones, (width, height) as they are trained, and how many there are of each.
        channels: Of the good ones' control maps, and how many there are of each.
    """

    good: list[Sample] = field(default_factory=list)
    bad: list[BadRow | BadSample] = field(default_factory=list)
    sizes: Counter[Size] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """How many are good."""
        return self.sizes.total()


@dataclass(frozen=True)
class _Checked:
    """One sample that was looked at: what it is, and its size and channels, or what is wrong with it."""

    sample: Sample | None
    found: tuple[Size, int] | BadRow | BadSample


def check_dataset(
    file: Path, workers: int | None = None, framing: Framing = AS_THEY_ARE, hint_channels: int | None = None
) -> Report:
    """Check every row of a `prompt.json` and its images, with a progress bar.

    Args:
        file: The `prompt.json`.
        workers: Threads; by default some more than there are cores.
        framing: How images come into the size that is trained.
        hint_channels: The model's; None takes any.
    """
    rows = list(try_rows(file))
    chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]

    def check(number: int) -> list[_Checked]:
        return [_check_row(row, framing, hint_channels) for row in chunks[number]]

    return _gathered(check, [len(chunk) for chunk in chunks], "row", workers)


def check_shards(
    where: str | Path, workers: int | None = None, framing: Framing = AS_THEY_ARE, hint_channels: int | None = None
) -> Report:
    """Check every sample of shards, which are read once from beginning to end; otherwise as `check_dataset`.

    Raises:
        FileNotFoundError: If there are no such shards.
        ValueError: If their index is malformed.
    """
    shards = find_shards(where)
    shown = {int(i) for i in np.linspace(0, len(shards) - 1, _SHEET_PAIRS)}

    def check(shard: int) -> list[_Checked]:
        return list(_check_shard(shards, shard, shown, framing, hint_channels))

    return _gathered(check, shards.counts, "sample", workers)


def _gathered(check: Callable[[int], list[_Checked]], counts: Sequence[int], unit: str, workers: int | None) -> Report:
    """All parts of a dataset, checked by several threads."""
    report = Report()
    executor = ThreadPoolExecutor(workers)
    try:
        with tqdm(total=sum(counts), desc="checking", unit=unit) as progress:
            for count, results in zip(counts, executor.map(check, range(len(counts))), strict=True):
                for checked in results:
                    _note(report, checked)
                progress.update(count)
    finally:
        executor.shutdown(cancel_futures=True)
    return report


def _note(report: Report, checked: _Checked) -> None:
    if not isinstance(checked.found, tuple):
        report.bad.append(checked.found)
        return
    size, channels = checked.found
    report.sizes[size] += 1
    report.channels[channels] += 1
    if checked.sample is not None:
        report.good.append(checked.sample)


def _check_row(row: Row | BadRow, framing: Framing, hint_channels: int | None) -> _Checked:
    if isinstance(row, BadRow):
        return _Checked(None, row)
    found = _check_sample(row, framing, hint_channels)
    return _Checked(row, BadRow(row.file, row.line, found) if isinstance(found, str) else found)


def _check_shard(
    shards: Shards, shard: int, shown: set[int], framing: Framing, hint_channels: int | None
) -> Iterator[_Checked]:
    url, first = shards.urls[shard], shards.first(shard)
    try:
        for number, raw in shards.read(shard):
            try:
                sample = as_sample(url, number, raw)
            except ValueError as error:
                yield _Checked(None, BadSample(str(error)))
                continue
            found = _check_sample(sample, framing, hint_channels)
            kept = sample if first + number in shown else None
            yield _Checked(kept, BadSample(f"{sample}: {found}") if isinstance(found, str) else found)
    except ValueError as error:
        yield _Checked(None, BadSample(str(error)))


def _check_sample(sample: Sample, framing: Framing, hint_channels: int | None) -> tuple[Size, int] | str:
    """Size and channels, or what is wrong."""
    problems = [] if sample.prompt.strip() else ["the prompt is empty"]
    try:
        found = check_pair(sample, framing, hint_channels)
    except ValueError as error:
        problems.append(str(error))
    return "; ".join(problems) or found


def contact_sheet(
    rows: Sequence[Sample],
    pairs: int = _SHEET_PAIRS,
    framing: Framing = AS_THEY_ARE,
    hint_channels: int | None = None,
) -> Image.Image:
    """Sources, targets and prompts of some samples, spread evenly over all of them, as they are trained.

    Args:
        rows: At least one; their images are read.
        pairs: At most so many are shown.
        framing: How images come into the size that is trained.
        hint_channels: The model's; None takes any.
    """
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, min(pairs, len(rows))).round().astype(int)]
    tiles = [_tile(row, *read_pair(row, framing, hint_channels)) for row in chosen]
    columns = min(_SHEET_COLUMNS, len(tiles))
    width, height = (max(tile.size[side] for tile in tiles) + _GAP for side in (0, 1))
    sheet = Image.new("RGB", (columns * width + _GAP, -(-len(tiles) // columns) * height + _GAP), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (_GAP + i % columns * width, _GAP + i // columns * height))
    return sheet


def _tile(row: Sample, hint: np.ndarray, target: np.ndarray) -> Image.Image:
    """A sample's source and target side by side, its prompt below."""
    images = [Image.fromarray(_as_colours(hint)), Image.fromarray(target)]
    for image in images:
        image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    width, height = images[0].size
    tile = Image.new("RGB", (2 * _THUMBNAIL + _GAP, height + _GAP + _LINES * (_FONT_SIZE + 4)), "white")
    for i, image in enumerate(images):
        tile.paste(image, (i * (width + _GAP), 0))
    font = ImageFont.load_default(_FONT_SIZE)
    text = _wrapped(f"{row.label}: {row.prompt}", font, tile.width)
    ImageDraw.Draw(tile).multiline_text((0, height + _GAP // 2), text, "black", font)
    return tile


def _as_colours(hint: np.ndarray) -> np.ndarray:
    """A control map of any number of channels as uint8 RGB: a single one grey, of several the first three."""
    hint = np.rint(unit_range(hint) * 255).astype(np.uint8)[:, :, :3]
    if hint.shape[2] == 1:
        return np.repeat(hint, 3, axis=2)
    return np.pad(hint, ((0, 0), (0, 0), (0, 3 - hint.shape[2])))


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text in lines of at most `width` pixels, cut off with dots after the last."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > _LINES:
        lines[_LINES - 1 :] = [f"{lines[_LINES - 1][:-3]}..."]
    return "\n".join(lines)
