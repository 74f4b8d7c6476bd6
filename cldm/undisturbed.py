"""Looks into a run while it trains that change nothing of it, and that the run outlives."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import nn

_ALLOCATION_FAILED = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "failed to allocate",
    "alloc_failed",
)
"""How messages of RuntimeError say it; only some devices have an error class of their own for it."""


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation without gradients; afterwards every module's mode and torch's random numbers are as before."""
    modes = {module: module.training for module in model.modules()}
    used = {parameter.device for parameter in model.parameters() if parameter.device.type not in ("cpu", "meta")}
    model.eval()
    try:
        kind = next((device.type for device in used), "cpu")
        with torch.no_grad(), torch.random.fork_rng(devices=used, device_type=kind):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def surviving_lack_of_memory(what: str) -> Iterator[None]:
    """Leave the block, with a warning, where memory does not do for it; all other errors pass.

    Args:
        what: Is not done then, as the warning's subject.
    """
    lacking = ""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_lack_of_memory(error):
            raise
        lacking = str(error).splitlines()[0] if str(error) else type(error).__name__
    if lacking:  # the error is gone by now, and with it the tensors that its frames held
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        rank_zero_warn(
            f"{what} left out, since memory does not do ({lacking}); training goes on. Smaller images, cache=true or "
            "precision=bf16-mixed leave more of it"
        )


@contextmanager
def surviving_full_disk(what: str) -> Iterator[None]:
    """Leave the block, with a warning, where a file cannot be written.

    Args:
        what: Is not done then, as the warning's subject.
    """
    try:
        yield
    except OSError as error:
        rank_zero_warn(f"{what} left out, since a file could not be written ({error}); training goes on")


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be allocated, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _ALLOCATION_FAILED)
