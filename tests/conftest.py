"""Test set-up shared by all packages."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may reach for a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["CONTROLNET_HASHES"] = str(Path(tempfile.mkdtemp(prefix="controlnet_tests_")) / "hashes.json")

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_NO_CHROMIUM = "chromium is not installed; install it with: apt-get install chromium"
_CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Browser tests are not run without chromium; with CONTROLNET_REQUIRE_BROWSER=1 they fail instead."""
    if item.get_closest_marker("browser") and _CHROMIUM is None:
        if os.environ.get("CONTROLNET_REQUIRE_BROWSER") == "1":
            pytest.fail(_NO_CHROMIUM, pytrace=False)
        pytest.skip(_NO_CHROMIUM)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    not_run = [r.nodeid for r in terminalreporter.stats.get("skipped", []) if _NO_CHROMIUM in str(r.longrepr)]
    if not_run:
        terminalreporter.section("browser tests not run")
        terminalreporter.write_line("\n".join([*not_run, _NO_CHROMIUM]))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A playwright browser; only for tests marked `browser`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_CHROMIUM, args=list(_CHROMIUM_FLAGS))
        yield chromium
        chromium.close()
