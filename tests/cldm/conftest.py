"""Set-up shared by tests of what the apps and `tool_generate.py` run on."""

import pytest

import tiny
from cldm.runner import Machine


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The tiny model in a file."""
    config, checkpoint = tiny.write_model(tmp_path_factory.mktemp("model"))
    return Machine((str(checkpoint),), str(config), "cpu")
