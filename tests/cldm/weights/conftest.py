"""The tiny config and its weights."""

from pathlib import Path

import pytest

from checkpoints import blueprint, full_weights, tiny_config
from cldm.weights.blueprint import Blueprint
from ldm.deferred import HandedOver


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def plan(config: Path) -> Blueprint:
    return blueprint(config)


@pytest.fixture
def weights(config: Path) -> HandedOver:
    """Of a whole ControlLDM, without position_ids."""
    return HandedOver(full_weights(config), "full.pth")
