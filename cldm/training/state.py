"""A run's training state: files that are whole or not there, and Lightning's loops made to go on from them.

A state has what a run changes: trained weights, optimizer, schedule, callbacks, random states and the place in the
data. The locked weights are not in it; they come from the files that the run started from. It is a pickle of tensors
and plain data, which is read without running code.
"""

import copy
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import nn

from cldm.training.order import Place, Share
from cldm.weights.saving import written_whole

STATE = "state_dict"
_PARTS = (STATE, "optimizer_states", "lr_schedulers", "callbacks", "loops", "global_step")
_DAMAGED = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    OSError,
)


class StateError(ValueError):
    """A state cannot be gone on from; the message says why, and what to do."""


class StateFiles(CheckpointIO):
    """How Lightning's trainer writes and reads states.

    Attributes:
        failure: What kept the last state from being written, if anything did. It is not raised, since the other
            processes of a run wait for the one that writes.
    """

    def __init__(self):
        self.failure: Exception | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        try:
            with written_whole(Path(path), replace=True) as unfinished, unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
            self.failure = None
        except (OSError, RuntimeError) as error:  # torch makes the latter of a disk that is full
            self.failure = error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def check_state(path: Path) -> int:
    """Check that a state is whole: every byte is read and compared with its checksum.

    Returns:
        The step that it was saved at.

    Raises:
        FileNotFoundError: If there is no such file.
        StateError: If it is cut short, damaged, or something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no state {path} to go on from; states are named state_<step>.pt")
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f"the checksum of {bad} differs")
        found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except _DAMAGED as error:
        words = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise StateError(f"{path} is cut short or damaged, or no training state: {words}") from error
    missing = [part for part in _PARTS if not isinstance(found, dict) or part not in found]
    if missing:
        raise StateError(f"{path} is no training state: it lacks {', '.join(missing)}")
    return found["global_step"]


def trained_names(model: nn.Module) -> list[str]:
    """Names of the weights that are trained."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def check_trained(given: list[str], trained: list[str]) -> None:
    """Compare the weights of a state with those that this run trains.

    Raises:
        StateError: If they are others.
    """
    differing = sorted(set(given) ^ set(trained))
    if differing:
        raise StateError(
            f"the state has {len(given)} trained weights and this run trains {len(trained)}, {differing[0]} for "
            "instance is in one of them only: resume with the config, sd_locked and only_mid_control of the run's start"
        )


def check_optimizer(saved: str | None, chosen: str) -> None:
    """Compare the optimizers of a state, if it says which, and of this run.

    Raises:
        StateError: If one cannot read what the other has written: adamw8bit's moments are of a kind of their own.
    """
    if saved is not None and saved != chosen and "adamw8bit" in (saved, chosen):
        raise StateError(
            f"the state is of optimizer={saved}, from which {chosen} cannot go on: resume with {saved}, or start anew "
            "from the newest ControlNet, in another folder (control=FILE output=FOLDER)"
        )


def check_samples(saved: int | None, given: int) -> None:
    """Compare the numbers of samples that a state's run, if it says so, and this one train on.

    Raises:
        StateError: If they differ: their order would be another, and some of those to judge by have been trained on.
    """
    if saved is not None and saved != given:
        raise StateError(
            f"the state's run trained on {saved} samples and this one would on {given}: resume with the dataset, "
            "validation, validation_freq and validation_pairs of the run's start, or start anew from the newest "
            "ControlNet, in another folder (control=FILE output=FOLDER)"
        )


def continued(loops: dict[str, Any], place: Place, share: Share) -> dict[str, Any]:
    """The state of Lightning's loops, to go on with the batch after the one in which it was saved.

    Lightning's own way counts batches, so that an epoch ends too early or too late where a step has become larger or
    smaller in the meantime, and a state of an epoch's last batch counts as one of the middle of it.

    Args:
        loops: As saved from the hook `on_train_batch_end`.
        place: Where the next batch begins.
        share: What this process sees, with this place as its start.
    """
    loops = copy.deepcopy(loops)
    fit = loops["fit_loop"]
    batches, epochs = fit["epoch_loop.batch_progress"], fit["epoch_progress"]
    done = share.before(place.epoch)
    for counter in ("ready", "started", "processed", "completed"):
        batches["current"][counter] = done
        batches["total"][counter] = batches["total"]["ready"]
        begun = place.samples > 0 and counter in ("ready", "started")
        epochs["current"][counter] = epochs["total"][counter] = place.epoch + begun
    batches["is_last_batch"] = False
    fit["epoch_loop.state_dict"]["_batches_that_stepped"] += 1  # Lightning counts it after the hook
    return loops
