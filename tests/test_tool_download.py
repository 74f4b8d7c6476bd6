"""The command line, run as people run it, with a hub on this machine in HF_ENDPOINT."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from annotator.manifest import DETECTOR_FILES, FILES, MODEL_FILES
from annotator.util import find_checkpoint, read_tensors
from local_hub import WEB_PAGE, Hub, local_hub

ROOT = Path(__file__).resolve().parents[1]
HED = b"PK\x03\x04 the weights of HED"
TINY = b"PK\x03\x04 the weights of the small M-LSD"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {
        "lllyasviel/Annotators/ControlNetHED.pth": HED,
        "lllyasviel/ControlNet/annotator/ckpts/mlsd_tiny_512_fp32.pth": TINY,
    }
    with local_hub(files=files) as hub:
        yield hub


@pytest.fixture
def run(tmp_path: Path, hub: Hub) -> Run:
    def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        }
        command = [sys.executable, str(ROOT / "tool_download.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    return tool


def test_two_files_and_then_nothing_to_do(run, hub, tmp_path):
    for _ in range(2):
        done = run("hed", "mlsd_tiny", "--to", "here")
        assert done.returncode == 0, done.stderr
        assert "2 files, 0.0 GB in all" in done.stdout
        assert "hed: here/ControlNetHED.pth" in done.stdout.splitlines()
        assert {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()} == {
            "ControlNetHED.pth": HED,
            "mlsd_tiny_512_fp32.pth": TINY,
        }
    assert [method for method, _, _ in hub.asked] == ["HEAD", "GET"] * 2


@pytest.mark.parametrize("given", ["a folder", "a folder/ControlNetHED.pth"])
def test_what_errors_advise_mends_a_missing_and_a_damaged_file(run, tmp_path, given):
    for content in (None, b"PK\x03\x04 cut"):
        path = tmp_path / "a folder" / "ControlNetHED.pth"
        if content:
            path.write_bytes(content)
        with pytest.raises((FileNotFoundError, ValueError)) as failure:
            read_tensors(find_checkpoint("ControlNetHED.pth", tmp_path / given))
        (command,) = re.findall("`python tool_download.py (.*?)`", str(failure.value))
        done = run(*shlex.split(command))
        assert done.returncode == 0, done.stderr
        assert path.read_bytes() == HED


def test_one_that_fails_is_said_and_the_others_go_on(run, hub, tmp_path):
    hub.files["lllyasviel/Annotators/ControlNetHED.pth"] = WEB_PAGE
    done = run("hed", "mlsd_tiny", "--to", "here")
    assert done.returncode == 1
    assert "error: hed: " in done.stderr
    assert "it is a web page" in done.stderr
    assert "1 of 2 not downloaded" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["mlsd_tiny_512_fp32.pth"]


def test_a_folder_that_cannot_be_made_is_one_message_a_file(run, tmp_path):
    (tmp_path / "file").touch()
    done = run("hed", "mlsd_tiny", "--to", "file/here")
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 2
    assert "2 of 2 not downloaded" in done.stderr
    assert "Traceback" not in done.stderr


def test_names_are_checked_and_listed(run, hub):
    wrong = run("fog")
    assert wrong.returncode == 2
    assert "expected one of all, detectors, models, hed, mlsd" in wrong.stderr
    listed = run().stdout
    for name, entry in FILES.items():
        assert any(line.startswith(f"{name} ") and entry.file in line for line in listed.splitlines())
    assert hub.asked == []


def test_groups_are_all_files_once():
    from tool_download import wanted

    assert wanted(["all"]) == [*DETECTOR_FILES, *MODEL_FILES]
    assert wanted(["hed", "detectors", "sd15"]) == [*DETECTOR_FILES, "sd15"]
