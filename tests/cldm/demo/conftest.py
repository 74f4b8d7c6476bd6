"""An app for the tests of its page."""

from pathlib import Path

import pytest

from annotator.canny import CannyDetector
from cldm.apps import Demo, Slider, invert
from cldm.runner import Machine


@pytest.fixture(autouse=True)
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's files are as if they had been uploaded."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))


@pytest.fixture
def demo() -> Demo:
    options = (Slider("Low", 1, 255, 100), Slider("Value", 0.01, 2, 0.1, 0.01))
    return Demo("A <title>", "canny", CannyDetector, options, invert)


@pytest.fixture
def full_size(tmp_path: Path) -> Machine:
    """A file that stands for Stable Diffusion's, never opened by building a page."""
    (tmp_path / "control_sd15_canny.pth").touch()
    return Machine((str(tmp_path / "control_sd15_canny.pth"),), device="cpu")
