"""A folder of images to a folder of maps, on all cores, able to go on after an interruption."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from tqdm.auto import tqdm

from annotator.images import (
    UNFINISHED,
    caption_of,
    check_apart,
    images_in,
    others_in,
    read_image,
    write_png,
    written_whole,
)
from annotator.util import HWC3, resize, resize_image

PROMPTS_FILE = "prompt.json"
SETTINGS_FILE = "annotate.json"
SIZE_STEP = 64  # of the sides of Stable Diffusion's images

Detect = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What the maps of a folder are made with; written beside them, so that they are all made alike.

    Attributes:
        detector: Its name.
        map: Which of its maps.
        options: Its options' values by name.
        resolution: Of the short side of what is detected and written; None for that of each image.
        training_set: Whether images and a `prompt.json` are written too.
        square: Whether the images of a training set are cut to their middle square.
        weights: Names and bytes of the detector's files of weights, as far as they are there.
    """

    detector: str
    map: str = "map"
    options: dict[str, Any] = field(default_factory=dict)
    resolution: int | None = None
    training_set: bool = False
    square: bool = True
    weights: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.training_set and (not self.resolution or self.resolution % SIZE_STEP):
            raise ValueError(
                f"a training set needs a resolution that is a multiple of {SIZE_STEP}, got {self.resolution}"
            )
        if self.resolution is not None and self.resolution <= 0:
            raise ValueError(f"resolution must be a positive number of pixels, got {self.resolution}")


class Problem(NamedTuple):
    """An image without a map, or without a row in the `prompt.json`, and why."""

    image: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.image}: {self.reason}"


@dataclass(frozen=True)
class Report:
    """What was done.

    Attributes:
        made: How many maps were made.
        kept: How many were there already.
        rows: How many rows the `prompt.json` has.
        problems: What could not be done.
        left_out: Files that are neither images, by their names' ends, nor captions.
    """

    made: int
    kept: int
    rows: int
    problems: list[Problem]
    left_out: list[Path]


def annotate_folder(
    images: Path, out: Path, detect: Callable[[], Detect], settings: Settings, workers: int | None = None
) -> Report:
    """Make a map of every image in a folder and the folders in it, with a progress bar.

    `a/cat.jpg` becomes `a/cat.png` in `out`; for a training set, `source/a/cat.png` is the map and `target/a/cat.png`
    the image, and every image with a caption, `a/cat.txt`, is a row of `prompt.json`.

    Args:
        images: The folder.
        out: The maps' folder; made if it is not there. Maps that it has are kept, and so are those that another process
            puts there meanwhile.
        detect: Makes what turns an RGB image into a map; called if there is work to do. It is used by several threads
            at once.
        settings: Which maps.
        workers: Threads, each with one image at a time; by default as many as torch has.

    Raises:
        FileNotFoundError: If the folder is not there or has no images.
        ValueError: If `out` is the same folder, or has maps that were made with other settings.
    """
    check_apart(images, out, "maps")
    names = images_in(images, out)
    _check_settings(out, settings)
    jobs, problems = _jobs(names)
    done = {target for target in jobs if _is_done(out, target, settings)}
    waiting = {target: name for target, name in jobs.items() if target not in done}
    made = 0
    if waiting:
        ready = detect()
        out.mkdir(parents=True, exist_ok=True)
        _check_settings(out, settings)  # another process may have begun by now
        _write_whole(out / SETTINGS_FILE, json.dumps(asdict(settings)) + "\n")
        made, failures = _make_all(images, out, waiting, ready, settings, workers or torch.get_num_threads())
        problems += failures
    failed = {problem.image for problem in problems}
    rows = 0
    if settings.training_set:
        good = {target: name for target, name in jobs.items() if name not in failed}
        rows, without = _write_prompts(images, out, good)
        problems += without
    kept = len(jobs) - made - len(failed & set(waiting.values()))
    return Report(made, kept, rows, sorted(problems), others_in(images, out))


def _check_settings(out: Path, settings: Settings) -> None:
    """See that a folder has no maps, or that they were made as is now asked for."""
    file = out / SETTINGS_FILE
    if not file.exists():
        if out.exists() and any(path.suffix != UNFINISHED for path in out.iterdir()):
            raise ValueError(f"{out} has files that are not of this tool; give an empty or a new folder")
        return
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"cannot read {file}: {error}; give another folder, or delete this one") from error
    wanted = asdict(settings)
    if isinstance(found, dict) and not (found.get("weights") and wanted["weights"]):
        found["weights"] = wanted["weights"]  # of an earlier version's folder, or of a detector that can make no more
    if found != wanted and any(out.rglob("*.png")):
        raise ValueError(f"the maps in {out} were made with {found}, asked for is {wanted}; give another folder")


def _jobs(names: list[Path]) -> tuple[dict[Path, Path], list[Problem]]:
    """Map's name -> image's name, and the images whose map would have a name that is taken."""
    jobs: dict[Path, Path] = {}
    problems = []
    for name in names:
        first = jobs.setdefault(name.with_suffix(".png"), name)
        if first != name:
            problems.append(Problem(name, f"its map would have the name of that of {first.name}; rename the image"))
    return jobs, problems


def _files(out: Path, target: Path, settings: Settings) -> list[Path]:
    """What is made of an image: the map, and the image itself if this is a training set."""
    return [out / "source" / target, out / "target" / target] if settings.training_set else [out / target]


def _is_done(out: Path, target: Path, settings: Settings) -> bool:
    return all(file.exists() for file in _files(out, target, settings))


def _make_all(
    images: Path, out: Path, jobs: dict[Path, Path], detect: Detect, settings: Settings, workers: int
) -> tuple[int, list[Problem]]:
    """How many maps were made, and what was not; the rest was there by then."""

    def make(job: tuple[Path, Path]) -> bool | Problem:
        target, name = job
        if _is_done(out, target, settings):
            return False
        try:
            image = _fitted(HWC3(read_image(images / name)), settings)
            results = [detect(image), image]
        except (FileNotFoundError, PermissionError, ValueError, MemoryError) as error:
            return Problem(name, str(error))
        for path, pixels in zip(_files(out, target, settings), results, strict=False):
            write_png(pixels, path)
        return True

    with _threads(workers) as pool, tqdm(total=len(jobs), desc=settings.detector, unit="image") as progress:
        results = []
        for result in pool.map(make, jobs.items()):
            progress.update()
            results.append(result)
    return results.count(True), [result for result in results if isinstance(result, Problem)]


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that leave the other cores to each other; what they have not begun is dropped if one fails."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(max(1, before // workers),))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _fitted(image: np.ndarray, settings: Settings) -> np.ndarray:
    """The image at the size that is asked for."""
    if settings.resolution is None:
        return image
    if not settings.training_set:
        return resize_image(image, settings.resolution)
    return _cut(image, settings.resolution, settings.square)


def _cut(image: np.ndarray, resolution: int, square: bool) -> np.ndarray:
    """Scale the short side to `resolution`, undistorted, and cut the long side to it or to a multiple of 64."""
    scale = resolution / min(image.shape[:2])
    size = tuple(max(resolution, round(side * scale)) for side in image.shape[:2])
    scaled = resize(image, size, cv2.INTER_LANCZOS4 if scale > 1 else cv2.INTER_AREA)
    height, width = (resolution if square else side // SIZE_STEP * SIZE_STEP for side in size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width])


def _write_prompts(images: Path, out: Path, jobs: dict[Path, Path]) -> tuple[int, list[Problem]]:
    """Write the `prompt.json`; how many rows it has, and the images that have no caption."""
    lines, problems = [], []
    for target, name in jobs.items():
        try:
            prompt = caption_of(images / name)
        except (OSError, ValueError) as error:
            problems.append(Problem(name, f"{error}; left out of {PROMPTS_FILE}"))
            continue
        row = {"source": f"source/{target.as_posix()}", "target": f"target/{target.as_posix()}", "prompt": prompt}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    _write_whole(out / PROMPTS_FILE, "".join(lines))
    return len(lines), problems


def _write_whole(file: Path, text: str) -> None:
    with written_whole(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
