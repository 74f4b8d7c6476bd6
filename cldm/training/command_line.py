"""Settings from the command line, and the files that a run needs."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cldm.data import find_dataset
from cldm.data.shards import find_shards, is_shards
from cldm.training.settings import HELD_OUT, Settings
from cldm.training.starting import Start

WEIGHT_FORMATS = (".safetensors", ".ckpt", ".pth", ".pt")


def from_command_line(defaults: Settings, arguments: Sequence[str] | None = None) -> Settings:
    """`defaults` with what the command line changes, `name=value` each; prints help, or one message, and exits.

    Args:
        defaults: The settings at the top of a training script.
        arguments: Of the command line; by default this process's.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        names = "\n".join(f"  {name}={value}" for name, value in asdict(defaults).items())
        raise SystemExit(f"{sys.modules['__main__'].__doc__}\n\nSettings and their defaults:\n{names}\n{_meanings()}")
    try:
        return changed(defaults, arguments)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error


def changed(defaults: Settings, assignments: Sequence[str]) -> Settings:
    """`defaults` with some fields changed.

    Args:
        defaults: Where the others come from.
        assignments: `name=value` each.

    Raises:
        ValueError: If one is no assignment, names no setting, or its value is of another type or range.
    """
    known, given = get_type_hints(type(defaults)), {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or name not in known:
            raise ValueError(f"expected name=value with a name of {', '.join(sorted(known))}, got {assignment!r}")
        given[name] = value if known[name] is str else _parsed(value)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(defaults), given)
    except OmegaConfBaseException as error:
        raise ValueError(str(error).splitlines()[0]) from error
    return replace(defaults, **OmegaConf.to_container(merged))


def _parsed(value: str) -> Any:
    """A number or a truth value as yaml writes them; anything else is a text."""
    try:
        parsed = OmegaConf.create(f"value: {value}").value
    except (OmegaConfBaseException, yaml.YAMLError):
        return value
    return parsed if isinstance(parsed, int | float) else value


def _meanings() -> str:
    lines = (Settings.__doc__ or "").split("Attributes:")[1].splitlines()
    return "\n".join(line[6:] for line in lines)


def require(settings: Settings, attach: str) -> Start:
    """The files of weights to start from; everything that the run reads is there after this.

    Args:
        settings: Of the run.
        attach: Script and first argument that attach a ControlNet to a base of this kind.

    Raises:
        FileNotFoundError: If weights, config or dataset are missing, with the commands that make them.
    """
    missing = []
    if not Path(settings.config).is_file():
        missing.append(f"config {settings.config}: expected a yaml such as ./models/cldm_v15.yaml")
    first = _found(settings.base or settings.resume_path)
    if first is None and settings.base:
        missing.append(f"base {settings.base}: put a Stable Diffusion there, or name another file")
    elif first is None:
        missing.append(
            f"weights {settings.resume_path}: put a Stable Diffusion into ./models, then attach a ControlNet to it:\n"
            f"    python {attach} {settings.resume_path}"
        )
    control = _found(settings.control) if settings.control else None
    if settings.control and control is None:
        missing.append(f"control {settings.control}: name a ControlNet's file, or the folder of a diffusers model")
    try:
        (find_shards if is_shards(settings.dataset) else find_dataset)(settings.dataset)
    except FileNotFoundError as error:
        missing.append(str(error))
    if settings.validation_freq and settings.validation != HELD_OUT:
        try:
            find_dataset(settings.validation)
        except FileNotFoundError as error:
            missing.append(f"validation: {error}")
    if missing:
        raise FileNotFoundError("this run needs what is not there\n" + "\n".join(f"- {line}" for line in missing))
    files = tuple(file for file in (first, control) if file is not None)
    return Start(settings.config, files, attach=bool(settings.base), seed=settings.seed)


def _found(name: str) -> Path | None:
    """The file of weights of this name, or of one with another format's ending; a folder is one of diffusers."""
    given = Path(name).expanduser()
    files = (given, *(given.with_suffix(end) for end in WEIGHT_FORMATS))
    return given if given.is_dir() else next((file for file in files if file.is_file()), None)
