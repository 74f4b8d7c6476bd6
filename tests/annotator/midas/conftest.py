"""A MiDaS checkpoint whose weights follow from their names."""

from pathlib import Path
from typing import Any

import pytest
import torch

from annotator.midas import FILE, MidasDetector
from parity import filled_state_dict, published_names


@pytest.fixture(scope="session")
def midas_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with every published name."""
    path = tmp_path_factory.mktemp("midas") / FILE
    torch.save(filled_state_dict(published_names(FILE)), path)
    return path


@pytest.fixture(scope="session")
def midas(midas_checkpoint: Path) -> MidasDetector:
    return MidasDetector(checkpoint=midas_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def aux_midas(midas_checkpoint: Path) -> Any:
    """The detector of controlnet_aux with the same checkpoint."""
    aux = pytest.importorskip("controlnet_aux.midas")
    return aux.MidasDetector(aux.MiDaSInference("dpt_hybrid", str(midas_checkpoint)))
