"""Many images in one go: jobs from an image, a folder or a file of JSON lines, and what is left of them to do."""

import errno
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from annotator.images import SUFFIXES, caption_of, check_apart, images_in
from annotator.manifest import DETECTOR_FILES
from annotator.util import find_checkpoint
from cldm.apps import Demo
from cldm.further import SHARE, Further
from cldm.out_of_memory import DRAW_FEWER_AT_ONCE, lack_of_memory_told
from cldm.records import FileHashes, read_record
from cldm.runner import Runner
from cldm.settings import LIMITS, RANDOM_SEED, Settings, with_whole_numbers
from cldm.starts import DENOISE
from cldm.weights.pooling import told_pooled
from cldm.weights.saving import written_whole

JOBS_SUFFIX = ".jsonl"
_FILES = ("image", "init_image", "mask")  # values that name files; in a file of jobs, from its folder
_DIGITS = 10  # of the hash in a result's name
_NOT_POSSIBLE = (OSError, ValueError, FloatingPointError, MemoryError)  # what one job may fail with, and the next go on
_NO_MORE_FILES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}  # what every next result would fail with


@dataclass(frozen=True)
class Job:
    """An image to work from and what is asked for.

    Attributes:
        source: What people call it: an image's path, or a file and a line in it.
        name: Of what is made, relative, without suffix.
        control: The app's name.
        values: What `Runner.run` takes, by name; what is left out has the model's and the app's defaults.
    """

    source: str
    name: str
    control: str
    values: Mapping[str, Any]


class OutputError(OSError):
    """The folder of results takes no more of them."""


class Problem(NamedTuple):
    """Something that could not be done or not quite, and why."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


@dataclass
class Report:
    """What was done.

    Attributes:
        made: How many images.
        kept: How many were there already.
        problems: What could not be done.
        notices: What was done, but not quite as it was asked for, such as with a prompt cut short.
    """

    made: int = 0
    kept: int = 0
    problems: list[Problem] = field(default_factory=list)
    notices: list[Problem] = field(default_factory=list)


def jobs_from(
    source: Path, control: str | None, values: Mapping[str, Any], out: Path
) -> tuple[list[Job], list[Problem]]:
    """The jobs that an image, a folder of images (and folders) or a .jsonl file of jobs stands for.

    A job's prompt is its own, or that of `values`, or what the text file beside its image says.

    Args:
        source: The image, folder or file.
        control: The app's name, where a line has no "control" of its own.
        values: For all jobs; a line's own come first.
        out: The results' folder, not looked into for images.

    Returns:
        Jobs, and images or lines that are none.

    Raises:
        FileNotFoundError: If there is no such source, or nothing in it.
        ValueError: If the source is something else or the folder `out`, or no control is named.
    """
    if source.suffix.lower() == JOBS_SUFFIX:
        return _split(_from_line(source, *line, control, values) for line in _lines(source))
    if control is None:
        raise ValueError(f"expected the name of a control for {source}")
    if source.is_dir():
        check_apart(source, out, "results")
        names = images_in(source, out)
        return _split(_from_image(source / name, name.with_suffix("").as_posix(), control, values) for name in names)
    if not source.is_file():
        raise FileNotFoundError(f"no file or folder at {source}; give an image, a folder of images or a .jsonl of jobs")
    if source.suffix.lower() not in SUFFIXES:
        raise ValueError(f"expected an image ({', '.join(SUFFIXES)}), a folder or a {JOBS_SUFFIX}, got {source}")
    return _split([_from_image(source, source.stem, control, values)])


def run_jobs(
    jobs: Iterable[Job],
    out: Path,
    runner_of: Callable[[str], Runner],
    begun: Callable[[Job | None, str], object] = lambda job, what: None,
    report: Report | None = None,
) -> Report:
    """Do jobs, those of one control after the other; what a folder has already is kept.

    The images of a job are `<name>-<hash>.png`, with `-<index>` if there are several. The hash is of the picture, of
    all that is asked for, and of the contents of the files of weights, a detector's too; so another wish has another
    name. How it is computed (`batch_size`, the machine) is none.

    Args:
        jobs: What to do.
        out: Folder of the images; made if it is not there.
        runner_of: Makes what does the jobs of a control; one is kept at a time.
        begun: Called with a job and what is going on with it, and with None when a job is over.
        report: To be filled in, for those who want it though the run is interrupted; a new one by default.

    Raises:
        OutputError: If nothing can be written to `out`, before the first job or later; what was made is kept.
    """
    report = Report() if report is None else report
    with _written_to(out):
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    for control, group in groupby(sorted(jobs, key=lambda job: job.control), lambda job: job.control):
        try:
            runner = runner_of(control)
            runner.files()
        except (OSError, ValueError) as error:
            skipped = [begun(None, "") for _ in group]
            report.problems.append(Problem(f"{_count(len(skipped), 'job')} of {control}", str(error)))
            continue
        missing, without = runner.maps.missing(), 0
        for job in group:
            if missing and not job.values.get("is_map", False):
                without += 1
            else:
                _do(job, out, runner, report, begun)
            begun(None, "")
        if without:
            report.problems.append(Problem(f"{_count(without, 'job')} of {control}", missing))
    return report


def names_of(runner: Runner) -> set[str]:
    """What a job of this app may ask for."""
    own = {option.name for option in runner.demo.options}
    if runner.demo.detect_at is not None:
        own.add("detect_resolution")
    return {*_FILES, *SHARE, "is_map", "prompt", "resolution", *(setting.name for setting in fields(Settings)), *own}


def _do(job: Job, out: Path, runner: Runner, report: Report, begun: Callable[[Job | None, str], object]) -> None:
    """What comes of a job, or what it could not be done for."""
    begun(job, "Looking")
    try:
        with lack_of_memory_told(DRAW_FEWER_AT_ONCE):
            _make(job, out, runner, report, begun)
    except OutputError:
        raise
    except _NOT_POSSIBLE as error:
        report.problems.append(Problem(job.source, str(error)))


def _make(job: Job, out: Path, runner: Runner, report: Report, begun: Callable[[Job | None, str], object]) -> None:
    values = _complete(job, runner)
    paths = _paths(out, job, values, runner)
    there = [path for path in paths if path.exists()]
    report.kept += len(there)
    if len(there) == len(paths):
        return
    if there and values["seed"] == RANDOM_SEED:
        values["seed"] = read_record(there[0]).settings.seed  # the batch that was interrupted
    pictures = runner.run(values, lambda update: begun(job, update.what))
    for path, picture in zip(paths, pictures.images, strict=True):
        if path not in there:
            with _written_to(out, _NO_MORE_FILES):
                path.parent.mkdir(parents=True, exist_ok=True)
                with written_whole(path) as unfinished:
                    shutil.copyfile(picture, unfinished)
            report.made += 1
    report.notices += [Problem(job.source, notice) for notice in pictures.notices]


@contextmanager
def _written_to(out: Path, reasons: Container[int | None] | None = None) -> Iterator[None]:
    """Say of errors, or of those with these numbers, that no results can be written."""
    try:
        yield
    except OSError as error:
        if reasons is not None and error.errno not in reasons:
            raise
        raise OutputError(
            f"cannot write results to {out}: {error.strerror or error}; make room or give another folder. What was "
            "made is kept, and the same command goes on"
        ) from error


def _complete(job: Job, runner: Runner) -> dict[str, Any]:
    """All values of a job."""
    if unknown := set(job.values) - names_of(runner):
        raise ValueError(
            f"{job.control} has no setting {', '.join(sorted(unknown))}; it has {', '.join(sorted(names_of(runner)))}"
        )
    for name in {"prompt", *_FILES} & set(job.values):
        if not isinstance(job.values[name], str):
            raise ValueError(f"{name} must be a text, got {job.values[name]!r}")
    settings, resolution, _ = runner.defaults()
    usual = asdict(settings)
    if "init_image" in job.values and "mask" not in job.values:
        usual["denoise"] = DENOISE
    own = {option.name: option.value for option in runner.demo.options}
    if runner.demo.detect_at is not None:
        own["detect_resolution"] = runner.demo.detect_at
    return with_whole_numbers({**usual, "resolution": resolution, "is_map": False, **own, **job.values})


def _paths(out: Path, job: Job, values: Mapping[str, Any], runner: Runner) -> list[Path]:
    """Where the images of a job belong."""
    usual = asdict(Settings())
    asked = {name: value for name, value in values.items() if name not in usual or value != usual[name]}
    asked = _with_contents({name: value for name, value in asked.items() if name != "batch_size"})
    if runner.further:
        asked["also"] = [_asked_beside(each, runner.hashes) for each in runner.further]
    files = [_content_of(path, runner.hashes) for path in (runner.files().config, *runner.files().checkpoints)]
    files += _content_of_detector(runner.demo, runner.machine.detector, values["is_map"], runner.hashes)
    text = json.dumps([job.control, asked, files], sort_keys=True)
    stem = f"{job.name}-{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}"
    count = values["images"]
    if count == 1 or count not in range(1, int(LIMITS["images"].highest) + 1):  # others are refused later
        return [out / f"{stem}.png"]
    return [out / f"{stem}-{index}.png" for index in range(count)]


def _with_contents(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with files' hashes in the place of their names."""
    hashes = {name: hashlib.sha256(Path(values[name]).read_bytes()).hexdigest() for name in _FILES if name in values}
    return {**values, **hashes}


def _asked_beside(further: Further, hashes: FileHashes) -> list[Any]:
    detector = _content_of_detector(further.demo, further.detector, further.values.get("is_map", False), hashes)
    return [further.demo.name, _with_contents(further.values), *_content_of(further.file(), hashes), *detector]


def _content_of_detector(demo: Demo, given: str | None, is_map: bool, hashes: FileHashes) -> list[tuple[str, ...]]:
    """Of a detector's weights, where they are used."""
    if not demo.weights or is_map:
        return []
    return [_content_of(find_checkpoint(DETECTOR_FILES[demo.weights].file, given), hashes)]


def _content_of(file: Path, hashes: FileHashes) -> tuple[str, ...]:
    """The hash of a file of weights, and what changes its outputs though it is not in it."""
    return hashes.of(file).sha256, *(["pooled"] if told_pooled(file) else [])


def _from_image(image: Path, name: str, control: str, values: Mapping[str, Any]) -> Job | Problem:
    try:
        prompt = values["prompt"] if "prompt" in values else caption_of(image)
    except (OSError, ValueError) as error:
        return Problem(str(image), f"{error}; or give a prompt for all")
    return Job(str(image), name, control, {**values, "image": str(image), "prompt": prompt})


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    if not file.is_file():
        raise FileNotFoundError(f"no file of jobs at {file}; expected is one JSON object a line")
    lines = [(number, line) for number, line in enumerate(file.read_bytes().splitlines(), 1) if line.strip()]
    if not lines:
        raise FileNotFoundError(f"no jobs in {file}; expected is one JSON object a line")
    return iter(lines)


def _from_line(file: Path, number: int, line: bytes, control: str | None, values: Mapping[str, Any]) -> Job | Problem:
    source = f"{file}, line {number}"
    try:
        own = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Problem(source, f"expected a JSON object, got something else: {error}")
    if not isinstance(own, dict) or not isinstance(own.get("image"), str):
        return Problem(source, 'expected a JSON object such as {"image": "cat.png", "prompt": "a cat"}')
    own |= {name: str(file.parent / own[name]) for name in _FILES if isinstance(own.get(name), str)}
    image = Path(own.pop("image"))
    control, name = own.pop("control", control), own.pop("name", image.stem)
    if not isinstance(control, str):
        return Problem(source, 'expected a "control", here or for all')
    if not isinstance(name, str) or not re.search(r"\w", name) or Path(name).anchor or ".." in name:
        return Problem(source, f'expected a "name" that is a relative path without "..", got {name!r}')
    job = _from_image(image, name, control, {**values, **own})
    return job._replace(source=source) if isinstance(job, Problem) else Job(source, name, control, job.values)


def _split(found: Iterable[Job | Problem]) -> tuple[list[Job], list[Problem]]:
    everything = list(found)
    return [f for f in everything if isinstance(f, Job)], [f for f in everything if isinstance(f, Problem)]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
