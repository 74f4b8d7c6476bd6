"""Generate images without a browser: of one image, of a folder of them, or of a file of jobs.

python tool_generate.py bird.jpg --control canny --prompt "a bird" --out birds
python tool_generate.py photos --control hed --out paintings steps=30 seed=7
python tool_generate.py jobs.jsonl --out images
python tool_generate.py bird.jpg --control canny --prompt "a bird" --out birds --also depth weight=0.5 end=0.6
python tool_generate.py --again birds/bird-3f2a910c55.png --out again

NAME=VALUE is anything that the control's app has: prompt, resolution, detect_resolution, is_map, its detector's
options, and the settings steps, scale, eta, strength, seed, images, batch_size (drawn at once), ...; weight, start and
end of the control's share of the steps; init_image and mask are files to repaint, with denoise=0.75, 1 with a mask.
Of a folder, every image's prompt is in the .txt file beside it, if none is given for all. A line of a .jsonl is
an object of the same names, with "image", and "control" and "name" if you like. Interrupt it when you like: what is
done is kept, and the same command goes on.

--also adds a control to all images, as often as you like: an app's name, and of its own weight, start, end, is_map,
detector's options, image (by default the one that is worked on), checkpoint and detector.

--again makes an image that an app or this tool has saved once more, from what is in its file, to the byte on the same
machine, and says what is different if anything is. It takes the flags of the machine, --detector aside; the rest is
the image's. Without such flags, what is there of the same record is kept.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from cldm.apps import Demo
from cldm.further import Further
from cldm.jobs import Job, Report, jobs_from, run_jobs
from cldm.machine import Machine, add_machine_flags
from cldm.out_of_memory import lack_of_memory_told
from cldm.records import Record, read_record
from cldm.runner import Runner
from cldm.settings import Settings

NO_DETECTOR = "none"
_ROOT = Path(__file__).parent
_OF_JOBS = ("prompt", "control", "also", "detector")  # flags that an image made again has no use for
_PATHS = {"image", "init_image", "mask", "checkpoint", "detector"}
_TEXTS = {"prompt", *(name for name, value in asdict(Settings()).items() if isinstance(value, str))}


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_intermixed_args(arguments)
    try:
        code = _again(given) if given.again else _generate(given)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(f"\nStopped; the same command goes on where {given.out} was left.") from None
    sys.exit(code)


def controls() -> list[str]:
    """The apps' names."""
    return sorted(path.stem.removeprefix("gradio_").removesuffix("2image") for path in _ROOT.glob("gradio_*2image.py"))


def demo_of(control: str) -> Demo:
    """The app of that name, or one whose input is a map already.

    Raises:
        ValueError: If there is no such app.
    """
    if control == NO_DETECTOR:
        return Demo("The control map as it is", "", _no_detector, name="map")
    if control not in controls():
        raise ValueError(f"control must be one of {', '.join(controls())} or {NO_DETECTOR}, got {control!r}")
    return import_module(f"gradio_{control}2image").demo


def _generate(given: argparse.Namespace) -> int:
    sources, values = _sources_and_values(given)
    if len(sources) != 1:
        raise ValueError(f"expected one image, folder or .jsonl of jobs, {_got_instead(sources, given.checkpoint)}")
    machine = Machine.of(given)
    further = [_further(words) for words in given.also]
    jobs, problems = jobs_from(Path(sources[0]), given.control, values, given.out)

    def runner_of(control: str) -> Runner:
        runner = Runner(demo_of(control), machine, further, for_page=False)
        if control == NO_DETECTOR and not machine.checkpoints:
            raise ValueError(
                f"--control {NO_DETECTOR} needs --checkpoint, to say which ControlNet follows the map; or give the "
                "map's own control, and is_map=true"
            )
        if missing := runner.missing_beside():
            raise ValueError(missing)
        if runner.files().notice:
            print(runner.files().notice.replace("**", "").replace("`", ""), file=sys.stderr)
        return runner

    prepared = [_without_detector(job) if job.control == NO_DETECTOR else job for job in jobs]
    report = Report(problems=problems)
    try:
        with tqdm(total=len(jobs), unit="job") as progress:

            def begun(job: Job | None, what: str) -> None:
                if job is None:
                    progress.update()
                else:
                    progress.set_postfix_str(f"{job.name}: {what}")

            run_jobs(prepared, given.out, runner_of, begun, report)
    finally:  # when it is interrupted or the disk is full, too
        for problem in (*report.notices, *report.problems):
            print(problem, file=sys.stderr)
        print(f"{given.out}: {report.made} images made, {report.kept} kept, problems: {len(report.problems)}")
    return 1 if report.problems else 0


def _got_instead(sources: Sequence[str], checkpoints: Sequence[str]) -> str:
    """What there is in the place of one source."""
    if sources:
        return f"got {len(sources)}: {', '.join(sources)}"
    taken = f"; --checkpoint took {', '.join(checkpoints)}: name the source before it, or a flag between them"
    return f"got none{taken if checkpoints else ''}"


def _further(words: Sequence[str]) -> Further:
    """What one --also says.

    Raises:
        ValueError: If there is no such app, or it has no such value.
    """
    control, *rest = words
    values, unread = _values(rest)
    if unread:
        raise ValueError(f"--also takes one control and NAME=VALUE, got {' '.join(words)}; repeat it for another")
    checkpoint, detector = (values.pop(name, None) for name in ("checkpoint", "detector"))
    if control == NO_DETECTOR:
        if checkpoint is None:
            raise ValueError(f"--also {NO_DETECTOR} needs checkpoint=FILE, to say which ControlNet follows the map")
        values["is_map"] = True
    return Further(demo_of(control), checkpoint, detector, values)


def _again(given: argparse.Namespace) -> int:
    from cldm.again import Again, Source
    from cldm.records import save_png

    if unread := [*given.words, *(f"--{name}" for name in _OF_JOBS if getattr(given, name) not in (None, []))]:
        raise ValueError(f"--again takes everything from the image, got {' '.join(unread)} as well; leave it out")
    source = Source(
        checkpoints=tuple(map(Path, given.checkpoint)),
        config=Path(given.config) if given.config else None,
        device=given.device,
        precision=given.precision,
        save_memory=given.save_memory or None,
        compile=given.compile or None,
    )
    as_told = source != Source()  # not as the record says
    again = Again(source)
    given.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for path in given.again:
        target = given.out / path.name
        try:
            record = read_record(path)
            if target.exists() and _is_there(target, path, None if as_told else record):
                print(f"{target}: kept, it is there already")
                continue
            with (
                lack_of_memory_told("--save-memory needs less, and --device cpu takes it from the computer"),
                tqdm(total=record.settings.steps, unit="step", desc=path.name) as progress,
            ):
                made = again.make(record, lambda done, steps, z, bar=progress: bar.update(done - bar.n))
            written = save_png(target, made.image, made.record)
        except (OSError, ValueError, FloatingPointError, MemoryError) as error:
            print(error if str(path) in str(error) else f"{path}: {error}", file=sys.stderr)
            failed += 1
            continue
        for change in made.changes:
            print(f"{path}: {change}", file=sys.stderr)
        print(f"{written}: {_compared(path, written)}")
    return 1 if failed else 0


def _is_there(target: Path, path: Path, record: Record | None) -> bool:
    """Whether what is there was made again from an image's record.

    Raises:
        FileExistsError: If it is the image itself or something else, or nothing is said of what it should be.
    """
    from cldm.weights.saving import check_free

    with suppress(ValueError):
        if record and not target.samefile(path) and _wish(read_record(target)) == _wish(record):
            return True
    check_free(target)
    return False


def _wish(record: Record) -> Record:
    return replace(record, runtime=None)


def _compared(first: Path, again: Path) -> str:
    if first.read_bytes() == again.read_bytes():
        return f"the same bytes as {first}"
    one, other = (np.asarray(Image.open(path)).astype(int) for path in (first, again))
    if one.shape == other.shape and (one == other).all():
        return f"the same pixels as {first}, in another file"
    most = abs(one - other).max() if one.shape == other.shape else 255
    return f"differs from {first} by up to {most} of 255"


def _sources_and_values(given: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """What of the words is a source, and what sets a value."""
    values, sources = _values(given.words)
    return sources, values if given.prompt is None else {"prompt": given.prompt, **values}


def _values(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """NAME=VALUE words by their names, and the other words."""
    values, others = {}, []
    for word in words:
        if match := re.fullmatch(r"([a-z]\w*)=(.*)", word, re.DOTALL):
            values[match[1]] = _value(*match.groups())
        else:
            others.append(word)
    return values, others


def _value(name: str, text: str) -> Any:
    """True, 5 or 0.5 as they are written; anything else, and what is a text by its name, as a text."""
    if name in _TEXTS or name in _PATHS:
        return text
    try:
        return json.loads(text.lower())
    except ValueError:
        return text


def _without_detector(job: Job) -> Job:
    return Job(job.source, job.name, job.control, {**job.values, "is_map": True})


def _no_detector(**ignored: Any) -> Any:
    raise ValueError("expected a control map, for which no detector is needed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="IMAGE|FOLDER|JOBS.jsonl NAME=VALUE", help="see above")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="for the images; made if need be")
    parser.add_argument(
        "--control",
        metavar="NAME",
        help=f"{', '.join(controls())}; or {NO_DETECTOR}: the images are maps for the ControlNet of --checkpoint",
    )
    parser.add_argument(
        "--also",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "NAME=VALUE"),
        help="one more control, see above; repeat it for others",
    )
    parser.add_argument("--prompt", help="for all images; by default what the .txt beside each says")
    parser.add_argument("--again", nargs="+", type=Path, metavar="PNG", help="make these once more")
    add_machine_flags(parser, "control_sd15_...", again="; with --again, the image's")
    parser.add_argument("--device", help="auto (the default), cpu, cuda, cuda:N or mps; with --again, the image's")
    return parser


if __name__ == "__main__":
    main()
