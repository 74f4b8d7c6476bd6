"""Make a map of every image in a folder, on all cores or on a GPU.

python tool_annotate.py photos --detector canny --out maps
python tool_annotate.py photos --detector midas --map normal --out normals
python tool_annotate.py photos --detector hed --out training/photos --training-set

With --training-set, captions are taken from the .txt files beside the images, and the result can be trained on:
`python tutorial_dataset.py training/photos` checks it. Interrupt it when you like: the same command goes on from there.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from annotator.catalogue import CATALOGUE, Entry, Option
from annotator.folder import PROMPTS_FILE, Detect, Settings, annotate_folder
from annotator.util import choose_device
from cldm.out_of_memory import lack_of_memory_told

LESS_MEMORY = "--workers 1 needs the least, and a --resolution such as 512 less"
_TRAINING_RESOLUTION = 512


def main() -> None:
    given = _parser().parse_args()
    entry = CATALOGUE[given.detector]
    try:
        settings = _settings(given)

        def detect() -> Detect:
            entry.files(given.checkpoints, settings.options)
            with lack_of_memory_told("close other programs, or try --device cpu"):
                detector = entry.build(given.checkpoints, given.device)

            def one(image: np.ndarray) -> np.ndarray:
                with lack_of_memory_told(LESS_MEMORY):
                    return entry.detect(detector, image, settings.options)[settings.map]

            return one

        workers = given.workers or _workers(entry, given.device)
        report = annotate_folder(given.folder, given.out, detect, settings, workers)
    except (OSError, ValueError, MemoryError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(f"\nStopped; the same command goes on where {given.out} was left.") from None
    for problem in report.problems:
        print(problem, file=sys.stderr)
    rows = f", {report.rows} rows in {PROMPTS_FILE}" if settings.training_set else ""
    left_out = f", left out: {len(report.left_out)} of other kinds" if report.left_out else ""
    print(f"{given.out}: {report.made} maps made, {report.kept} kept{rows}, problems: {len(report.problems)}{left_out}")
    sys.exit(1 if report.problems else 0)


def _workers(entry: Entry, device: str) -> int:
    """One where a network is on an accelerator, whose memory is for one image's activations; else torch's threads."""
    on_accelerator = entry.weights and choose_device(device).type != "cpu"
    return 1 if on_accelerator else torch.get_num_threads()


def _settings(given: argparse.Namespace) -> Settings:
    """What the flags ask for; options that were not given have their defaults.

    Raises:
        ValueError: If a flag is not for the detector, or its value is out of range.
    """
    entry = CATALOGUE[given.detector]
    own = {option.name: option for option in entry.options}
    for option in _options():
        if getattr(given, option.name) is not None and option.name not in own:
            raise ValueError(f"{_flag(option)} is no option of {given.detector}; it has {_flags(entry.options)}")
    values = {name: getattr(given, name) for name in own}
    options = {
        name: option.value if values[name] is None else option.checked(values[name]) for name, option in own.items()
    }
    if given.map is not None and given.map not in entry.maps:
        raise ValueError(f"{given.detector} has no map {given.map!r}; expected one of {', '.join(entry.maps)}")
    resolution = given.resolution
    if resolution is None and given.training_set:
        resolution = _TRAINING_RESOLUTION
    return Settings(
        given.detector,
        given.map or entry.maps[0],
        options,
        resolution,
        given.training_set,
        given.square,
        _weights(entry, given.checkpoints, options),
    )


def _weights(entry: Entry, folder: Path | None, options: Mapping[str, Any]) -> dict[str, int]:
    """Names and bytes of the detector's files; none if one is missing, which is said where there is work to do."""
    try:
        return {file.name: file.stat().st_size for file in entry.files(folder, options)}
    except FileNotFoundError:
        return {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="images, in folders if you like")
    parser.add_argument("--detector", required=True, choices=CATALOGUE, help="what makes the maps")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="for the maps, new or to go on with")
    parser.add_argument("--map", help="of a detector that makes several: depth (the default) or normal")
    parser.add_argument(
        "--resolution",
        type=int,
        metavar="PIXELS",
        help="scale the short side to this first, both sides to multiples of 64; by default images keep their size",
    )
    parser.add_argument(
        "--training-set",
        action="store_true",
        help=f"write source/ (maps), target/ (images) and {PROMPTS_FILE}; the resolution is {_TRAINING_RESOLUTION} "
        "if not given, and nothing is distorted",
    )
    parser.add_argument(
        "--square",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether a training set's images are cut to their middle square, so that they make batches; otherwise "
        "the long side is cut to a multiple of 64",
    )
    parser.add_argument("--checkpoints", type=Path, metavar="FOLDER", help="by default annotator/ckpts")
    parser.add_argument("--device", default="auto", help="auto (the default), cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--workers",
        type=int,
        help="images at a time, by default one on a GPU and one for each core without; fewer need less memory",
    )
    for name, entry in CATALOGUE.items():
        group = parser.add_argument_group(f"options of {name}") if entry.options else None
        for option in entry.options:
            _add_option(group, option)
    return parser


def _add_option(group: argparse._ArgumentGroup, option: Option) -> None:
    if option.is_switch:
        group.add_argument(_flag(option), action=argparse.BooleanOptionalAction, help=f"default: {option.value}")
    else:
        text = f"{option.label.lower()}, {option.minimum:g} to {option.maximum:g}, default: {option.value:g}"
        group.add_argument(_flag(option), type=float, metavar="N", help=text)


def _options() -> list[Option]:
    return [option for entry in CATALOGUE.values() for option in entry.options]


def _flag(option: Option) -> str:
    return f"--{option.name.replace('_', '-')}"


def _flags(options: tuple[Option, ...]) -> str:
    return ", ".join(map(_flag, options)) or "none"


if __name__ == "__main__":
    main()
