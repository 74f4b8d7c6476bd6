"""A UniFormer checkpoint whose weights follow from their names."""

from pathlib import Path

import pytest
import torch

from annotator.uniformer import FILE, UniformerDetector
from parity import filled_state_dict, published_names


@pytest.fixture(scope="session")
def uniformer_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with every published name, wrapped as the published one is."""
    path = tmp_path_factory.mktemp("uniformer") / FILE
    torch.save({"meta": {"epoch": 1}, "state_dict": filled_state_dict(published_names(FILE))}, path)
    return path


@pytest.fixture(scope="session")
def uniformer(uniformer_checkpoint: Path) -> UniformerDetector:
    return UniformerDetector(checkpoint=uniformer_checkpoint, device="cpu")
