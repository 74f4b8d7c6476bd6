"""The tiny config and its weights, and one with a text encoder that is not used to the end."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from checkpoints import blueprint, full_weights, tiny_config
from cldm.weights.blueprint import Blueprint
from ldm.deferred import HandedOver


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def plan(config: Path) -> Blueprint:
    return blueprint(config)


@pytest.fixture(scope="session")
def penultimate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose text encoder is OpenCLIP's, of which the last layer and the projection have no effect."""
    path = tiny_config(tmp_path_factory.mktemp("penultimate"), "21")
    config = OmegaConf.load(path)
    config.model.params.cond_stage_config = {
        "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
        "params": {"width": 16, "heads": 2, "layers": 3, "layer": "penultimate"},
    }
    OmegaConf.save(config, path)
    return path


@pytest.fixture
def weights(config: Path) -> HandedOver:
    """Of a whole ControlLDM, without position_ids."""
    return HandedOver(full_weights(config), "full.pth")
