"""Checkpoints whose weights follow from their names."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from parity import filled_state_dict, published_names


@pytest.fixture(scope="session")
def filled_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a file with every name of the published one, once a session."""
    folder = tmp_path_factory.mktemp("ckpts")

    @cache
    def write(file: str) -> Path:
        torch.save(filled_state_dict(published_names(file)), folder / file)
        return folder / file

    return write
