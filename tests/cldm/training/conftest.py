"""A tiny model with data, once for all tests of training, and a fresh folder for each run."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import training_runs
from cldm.training import Settings


@pytest.fixture(scope="session")
def tiny_settings(tmp_path_factory) -> Settings:
    return training_runs.tiny_settings(tmp_path_factory.mktemp("training"))


@pytest.fixture
def settings(tiny_settings: Settings, tmp_path: Path) -> Settings:
    return replace(tiny_settings, output=str(tmp_path / "run"))


@pytest.fixture(scope="session")
def whole(tiny_settings: Settings, tmp_path_factory) -> tuple[Path, training_runs.Record]:
    """The folder of a run of 8 steps in one go, and what it saw."""
    folder = tmp_path_factory.mktemp("whole")
    settings = replace(tiny_settings, output=str(folder))
    return folder, training_runs.run(settings)


@pytest.fixture
def disk_that_fills() -> Callable:
    """A block in which no file can be made larger than so many bytes, as on a disk with no more room."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
