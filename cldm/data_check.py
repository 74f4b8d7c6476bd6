"""A look at a whole dataset before hours are spent on it: bad rows, sizes, a contact sheet."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from cldm.data import BadRow, Row, check_image, read_pair, size_problem, try_rows

_CHUNK = 256  # rows that a thread takes at once
_SHEET_PAIRS = 12
_SHEET_COLUMNS = 3
_THUMBNAIL = 160  # pixels, longest side
_GAP = 8
_LINES = 2  # of a prompt, at most
_FONT_SIZE = 13

Size = tuple[int, int]


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        good: Rows that can be trained on.
        bad: The others, in the file's order.
        sizes: Of the good rows' images, (width, height), and how many there are of each.
    """

    good: list[Row]
    bad: list[BadRow]
    sizes: Counter[Size]


def check_dataset(file: Path, workers: int | None = None) -> Report:
    """Check every row of a `prompt.json` and its images, with a progress bar.

    Args:
        file: The `prompt.json`.
        workers: Threads; by default some more than there are cores.
    """
    rows = list(try_rows(file))
    chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    good, bad, sizes = [], [], Counter()
    executor = ThreadPoolExecutor(workers)
    try:
        with tqdm(total=len(rows), desc="checking", unit="row") as progress:
            for chunk, results in zip(chunks, executor.map(_check_chunk, chunks), strict=True):
                for row, result in zip(chunk, results, strict=True):
                    if isinstance(result, BadRow):
                        bad.append(result)
                    else:
                        good.append(row)
                        sizes[result] += 1
                progress.update(len(chunk))
    finally:
        executor.shutdown(cancel_futures=True)
    return Report(good, bad, sizes)


def _check_chunk(rows: Sequence[Row | BadRow]) -> list[Size | BadRow]:
    return [row if isinstance(row, BadRow) else _check_row(row) for row in rows]


def _check_row(row: Row) -> Size | BadRow:
    """The size of a row's images, or what is wrong with it."""
    problems = [] if row.prompt.strip() else ["the prompt is empty"]
    sizes = []
    for image in (row.source, row.target):
        try:
            sizes.append(check_image(image))
        except (FileNotFoundError, ValueError) as error:
            problems.append(str(error))
    if len(sizes) == 2 and (problem := size_problem(*sizes)):
        problems.append(problem)
    return BadRow(row.file, row.line, "; ".join(problems)) if problems else sizes[0]


def contact_sheet(rows: Sequence[Row], pairs: int = _SHEET_PAIRS) -> Image.Image:
    """Sources, targets and prompts of some rows, spread evenly over all of them.

    Args:
        rows: At least one; their images are read.
        pairs: At most so many are shown.
    """
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, min(pairs, len(rows))).round().astype(int)]
    tiles = [_tile(row) for row in chosen]
    columns = min(_SHEET_COLUMNS, len(tiles))
    width, height = (max(tile.size[side] for tile in tiles) + _GAP for side in (0, 1))
    sheet = Image.new("RGB", (columns * width + _GAP, -(-len(tiles) // columns) * height + _GAP), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (_GAP + i % columns * width, _GAP + i // columns * height))
    return sheet


def _tile(row: Row) -> Image.Image:
    """A row's source and target side by side, its prompt below."""
    images = [Image.fromarray(image) for image in read_pair(row)]
    for image in images:
        image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    width, height = images[0].size
    tile = Image.new("RGB", (2 * _THUMBNAIL + _GAP, height + _GAP + _LINES * (_FONT_SIZE + 4)), "white")
    for i, image in enumerate(images):
        tile.paste(image, (i * (width + _GAP), 0))
    font = ImageFont.load_default(_FONT_SIZE)
    text = _wrapped(f"{row.line}: {row.prompt}", font, tile.width)
    ImageDraw.Draw(tile).multiline_text((0, height + _GAP // 2), text, "black", font)
    return tile


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
