"""What a run learns by, and how it is seen that it learns: all of it that settings choose, for a training script."""

from collections.abc import Sequence

import pytorch_lightning as pl

from cldm.cldm import ControlLDM
from cldm.training.ema import Ema
from cldm.training.guard import NotANumberGuard
from cldm.training.pairs import Pair
from cldm.training.settings import FROM_CONFIG, Settings
from cldm.training.validation import Validation


def set_objective(model: ControlLDM, settings: Settings) -> None:
    """Set what the model's loss depends on."""
    model.prompt_dropout = settings.prompt_dropout
    model.seed = settings.seed
    model.min_snr_gamma = settings.min_snr_gamma
    model.noise_offset = settings.noise_offset
    if settings.parameterization != FROM_CONFIG:
        model.parameterization = settings.parameterization


def learning_callbacks(pairs: Sequence[Pair], settings: Settings) -> list[pl.Callback]:
    """The guard, the averages and the validations of a run, in the order that they depend on one another.

    Args:
        pairs: To validate by, from `encode_pairs`.
        settings: Of the run.
    """
    guard, validation = NotANumberGuard(settings.nan_patience), Validation(pairs, settings)
    return [guard, Ema(settings.ema_decay), validation] if settings.ema_decay else [guard, validation]
