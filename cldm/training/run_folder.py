"""The folder of a run: whether it is free, where to go on in it, and what it is a run of."""

import re
from dataclasses import asdict
from pathlib import Path

import yaml
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_only

from cldm.training.settings import Settings
from cldm.training.state import StateError, check_state
from cldm.weights.saving import written_whole

SETTINGS = "settings.yaml"
CONTROL, STATE, WHOLE, BASE = "control", "state", "model", "base"
"""First parts of the names of what is saved: the ControlNet, the training state, the whole model, the tuned base."""

_ENDS = {STATE: ".pt"}
_PRODUCTS = (SETTINGS, "image_log", "control_best.safetensors")


def file_of(folder: Path, kind: str, step: int) -> Path:
    """Where something is saved at a step."""
    return folder / f"{kind}_{step:06}{_ENDS.get(kind, '.safetensors')}"


def step_of(file: Path) -> int:
    """The step that the name of a saved file says."""
    return int(file.stem.rpartition("_")[2])


def saved(folder: Path, kind: str) -> list[Path]:
    """What a run has saved of one kind, the oldest first; files that people have named are not among them."""
    files = folder.glob(f"{kind}_*{_ENDS.get(kind, '.safetensors')}")
    return sorted((file for file in files if re.fullmatch(rf"{kind}_\d{{6,}}", file.stem)), key=step_of)


def remove_old(folder: Path, kind: str, keep: int) -> None:
    """Remove all but the newest `keep` of one kind; 0 keeps all."""
    for file in saved(folder, kind)[:-keep] if keep else ():
        file.unlink(missing_ok=True)


def open_run(settings: Settings) -> Path | None:
    """The state that a run goes on from, or None for its beginning; makes the folder.

    To be called in every process of a run, before it writes anything.

    Raises:
        FileExistsError: If a run has used the folder and none is to be resumed, or one would be overwritten, as where
            its states have been removed.
        FileNotFoundError: If the named state is not there.
        StateError: If the named state is damaged, or all are.
    """
    folder, step = settings.folder, 0
    if settings.resume == "auto":
        state = _newest_good(folder)
    elif settings.resume:
        state = Path(settings.resume).expanduser()
        step = check_state(state)
    else:
        state = None
    if rank_zero_only.rank == 0:  # the others may come when the first has begun to write
        if settings.resume != "auto":
            _check_free(folder, state, step)
        elif state is None:
            _check_begun(folder, settings.save_freq)
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*.unfinished"):  # by a process that was killed
            left.unlink(missing_ok=True)
    return state


def _newest_good(folder: Path) -> Path | None:
    states = saved(folder, STATE)
    for state in reversed(states):
        try:
            check_state(state)
        except StateError as error:
            rank_zero_info(f"skipped: {error}")
            continue
        rank_zero_info(f"going on from {state}")
        return state
    if states:
        raise StateError(
            f"none of the {len(states)} states in {folder} can be used; start anew from the newest ControlNet there, "
            "in another folder: control=FILE output=FOLDER"
        )
    rank_zero_info(f"no state in {folder} yet: training begins at its first step")
    return None


def _check_free(folder: Path, state: Path | None, step: int) -> None:
    """Check that nothing of an earlier run would be overwritten, in the folder that a state of a step is gone on in."""
    if state is not None and state.resolve().parent == folder.resolve():
        later = [file for kind in (CONTROL, STATE) for file in saved(folder, kind) if step_of(file) > step]
        if later:
            raise FileExistsError(
                f"{folder} has later files than {state.name}, {later[-1].name} for instance, which going on would "
                "overwrite; give another folder (output=FOLDER), or remove them first"
            )
        return
    found = [folder / name for name in _PRODUCTS if (folder / name).exists()]
    found += [file for kind in (CONTROL, STATE, WHOLE, BASE) for file in saved(folder, kind)]
    if found:
        raise FileExistsError(
            f"{folder} has a run in it ({found[0].name}), which is not overwritten: go on with it (resume=auto), or "
            "give another folder (output=FOLDER)"
        )


def _check_begun(folder: Path, first_save: int) -> None:
    """Check that what a run without a state has left is no more than a first save that was cut short."""
    found = [file for kind in (CONTROL, WHOLE, BASE) for file in saved(folder, kind) if step_of(file) != first_save]
    if found:
        raise FileExistsError(
            f"{folder} has {found[-1].name} but no state to go on from, and a run from the first step on would "
            "overwrite what is there; give another folder (output=FOLDER), with control=FILE to start from that one"
        )


def write_settings(settings: Settings, step: int) -> None:
    """Put settings beside a run; those of a resumed one under a name of their own, where they have changed.

    Args:
        settings: Of the run.
        step: That it begins at.
    """
    folder, values = settings.folder, asdict(settings)
    first = folder / SETTINGS
    target = folder / f"settings_from_{step:06}.yaml" if first.exists() else first
    if first.exists():
        before = yaml.safe_load(first.read_text())
        changed = [f"{n}={v} (was {before.get(n)})" for n, v in values.items() if n != "resume" and before.get(n) != v]
        if not changed:
            return
        rank_zero_info(f"settings that differ from the run's first ones: {', '.join(changed)}")
    with written_whole(target, replace=True) as unfinished:
        unfinished.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
