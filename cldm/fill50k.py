"""A Fill50K of our own: circle outlines to be filled, for where the published dataset cannot be downloaded.

The format is the published one's: `prompt.json` with one JSON object a line, `source/0.png` with a white outline on
black, `target/0.png` with the filled circle, see `cldm.shapes`. Item k depends on the seed and k alone, so the files
are the same however many processes make them and however often they are interrupted.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from cldm.shapes import Scene, sample_scene

PROMPTS_FILE = "prompt.json"
RECIPE_FILE = "recipe.json"
_RECIPE_VERSION = 1  # raise it when the same settings give other files than before
_SIZES = (64, 2048)
_SIZE_STEP = 64  # Stable Diffusion's images have sides that are multiples of it
_CHUNK = 64  # items handed to a process at once: about a second of work, small next to starting a process


@dataclass(frozen=True)
class Recipe:
    """What decides the dataset's bytes.

    Attributes:
        count: Of items.
        size: Side of the images in pixels, a multiple of 64.
        seed: 0 or more.
        exclude_held_out: Leave out the combinations that the miniature is evaluated on, see `cldm.shapes.held_out`.

    Raises:
        ValueError: If a number is out of its range.
    """

    count: int = 50_000
    size: int = 512
    seed: int = 0
    exclude_held_out: bool = True

    def __post_init__(self) -> None:
        lowest, highest = _SIZES
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")
        if not lowest <= self.size <= highest or self.size % _SIZE_STEP:
            raise ValueError(f"size must be a multiple of {_SIZE_STEP} from {lowest} to {highest}, got {self.size}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")


def make_fill50k(
    output: str | Path,
    count: int = 50_000,
    size: int = 512,
    seed: int = 0,
    workers: int | None = None,
    exclude_held_out: bool = True,
) -> Path:
    """Make the dataset, or what is missing of it after an interruption.

    With more than one worker, processes are started afresh ("spawn"): a script that calls this needs the usual
    `if __name__ == "__main__":`.

    Args:
        output: Folder to make; may be there if it is empty or was begun with the same settings.
        count: Of items.
        size: Side of the images in pixels, a multiple of 64.
        seed: 0 or more.
        workers: Processes; by default one for each core.
        exclude_held_out: Leave out one combination of colours in 16, those that the miniature is evaluated on.

    Returns:
        The finished dataset's `prompt.json`, which is written last.

    Raises:
        ValueError: If a number is out of its range, or the folder holds anything else.
    """
    recipe = Recipe(count, size, seed, exclude_held_out)
    workers = available_cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    output = Path(output).expanduser()
    _claim(output, recipe)
    for folder in ("source", "target"):
        (output / folder).mkdir(exist_ok=True)
    starts = range(0, count, _CHUNK)
    lines: list[str] = []
    with tqdm(total=count, desc=f"{output.name}", unit="pair") as progress:
        for chunk in _mapped(partial(_make_chunk, output, recipe), starts, min(workers, len(starts))):
            lines += chunk
            progress.update(len(chunk))
    return _write_prompts(output / PROMPTS_FILE, lines)


def scene(recipe: Recipe, item: int) -> Scene:
    """The circle of one item, drawn from the seed and the item's number alone."""
    rng = np.random.default_rng((recipe.seed, item))
    return sample_scene(rng, shapes=("circle",), from_held_out=False if recipe.exclude_held_out else None)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _claim(output: Path, recipe: Recipe) -> None:
    """Mark a new folder with its recipe, or check that this recipe began it."""
    found = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    content = json.dumps({"version": _RECIPE_VERSION, **asdict(recipe)}, indent=1) + "\n"
    file = output / RECIPE_FILE
    if file.is_file():
        if file.read_text(encoding="utf-8") != content:
            raise ValueError(
                f"{output} was begun with other settings, {_on_one_line(file.read_text(encoding='utf-8'))}; given are "
                f"{_on_one_line(content)}. Give the same settings to go on, or another folder as output, or delete it"
            )
    elif set(found) - {file.with_suffix(".tmp").name}:
        raise ValueError(
            f"{output} holds files that were not made here ({', '.join(found[:4])}{', ...' * (len(found) > 4)}): the "
            "published dataset, or one of your own. It is left as it is; give another folder as output"
        )
    else:
        output.mkdir(parents=True, exist_ok=True)
        _write(file, content)


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _make_chunk(output: Path, recipe: Recipe, start: int) -> list[str]:
    """Make a chunk's pictures where they are missing, and give its lines of `prompt.json`."""
    return [_make_item(output, recipe, item) for item in range(start, min(start + _CHUNK, recipe.count))]


def _make_item(output: Path, recipe: Recipe, item: int) -> str:
    drawn = scene(recipe, item)
    line = {"source": f"source/{item}.png", "target": f"target/{item}.png", "prompt": drawn.prompt}
    for name, draw in (("source", drawn.outline), ("target", drawn.image)):
        file = output / line[name]
        if not (file.is_file() and file.stat().st_size):  # a crash of the machine leaves files of no length
            temporary = file.with_suffix(".tmp")
            Image.fromarray(draw(recipe.size)).save(temporary, "PNG")
            temporary.replace(file)
    return json.dumps(line)


def _write_prompts(file: Path, lines: list[str]) -> Path:
    content = "".join(f"{line}\n" for line in lines)
    if not file.is_file():
        _write(file, content)
    elif file.read_text(encoding="utf-8") != content:
        raise ValueError(f"{file} is there with other rows than were made; move it away to have it made again")
    return file


def _write(file: Path, content: str) -> None:
    temporary = file.with_suffix(".tmp")
    temporary.write_text(content, encoding="utf-8", newline="\n")
    temporary.replace(file)


def _mapped(function: partial, starts: range, workers: int) -> Iterator[list[str]]:
    """Map in order, in this process or in several; an interruption does not wait for what has not begun."""
    if workers == 1:
        yield from map(function, starts)
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_worker)
    try:
        yield from executor.map(function, starts)
    finally:
        executor.shutdown(cancel_futures=True)


def _prepare_worker() -> None:
    """One core each; Ctrl-C is the parent's to handle, and where that was killed its workers end too."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
