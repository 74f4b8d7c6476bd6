"""Whether a ControlNet's outputs are averaged over the image, as ControlNet 1.1's "shuffle" needs.

No tensor shows it, so it stands beside the weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yaml import YAMLError, safe_load

from cldm.weights.folders import config_beside, telling_name, weights_file
from cldm.weights.reading import read_metadata, told_by_run

POOLED = "global_average_pooling"
"""Its name among a config's parameters; diffusers' is `global_pool_conditions`."""


def told_pooled(path: str | Path) -> bool | None:
    """Whether a ControlNet's outputs are averaged, by what belongs to its file; None if nothing does.

    Args:
        path: The file or diffusers' folder. Asked are the config in the header of a file that training saved,
            diffusers' config.json in the folder, and a yaml of the same name.

    Raises:
        FileNotFoundError: If it is a folder without weights.
        ValueError: If config.json or yaml cannot be read.
    """
    file = weights_file(path)
    match _config_in(file) or _config_of(config_beside(file)):
        case {"model": {"params": {"control_stage_config": _, **params}}}:
            return bool(params.get(POOLED))
        case {"_class_name": _, **params}:
            return bool(params.get("global_pool_conditions"))
    return None


def pooling_doubt(path: str | Path, pooled: bool) -> str:
    """What a user should know of a ControlNet that is used so; empty if there is no doubt."""
    file = weights_file(path)
    if pooled or "shuffle" not in telling_name(file).lower():
        return ""
    return (
        f"{file} seems to be a ControlNet of the kind shuffle, whose outputs are to be averaged, but nothing says so: "
        f"put its yaml with {POOLED}: true beside it as {file.with_suffix('.yaml').name}"
    )


def _config_in(file: Path) -> dict[str, Any]:
    try:
        config = told_by_run(read_metadata(file), "config")
    except (OSError, ValueError):  # no .safetensors file; that it cannot be read, its reader says
        return {}
    return {"model": config} if config else {}


def _config_of(path: Path | None) -> Mapping[str, Any] | None:
    try:
        return None if path is None else safe_load(path.read_text(encoding="utf-8"))  # JSON is yaml too
    except (YAMLError, ValueError, OSError) as error:
        raise ValueError(f"cannot read {path}, which says how the weights beside it are used: {error}") from error
