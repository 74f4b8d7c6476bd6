"""How an app is started: the flags, and what the terminal says."""

import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cldm.demo import main
from cldm.runner import Machine

ROOT = Path(__file__).parents[3]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What an app is started with, instead of being served."""
    seen = {}

    class Launched:
        def launch(self, **options):
            seen.update(options)

    monkeypatch.setattr("cldm.demo.build", lambda runner: seen.update(machine=runner.machine) or Launched())
    return seen


def test_flags_reach_the_machine_and_the_server(demo, started, capsys):
    given = "--checkpoint a.pth b.pth --config c.yaml --device cpu --precision bfloat16 --save-memory --port 99 --share"
    main(demo, [*given.split(), "--auth", "me:s:t"])
    assert started["machine"] == Machine(("a.pth", "b.pth"), "c.yaml", "cpu", "bfloat16", save_memory=True)
    assert (started["server_name"], started["server_port"], started["share"]) == ("127.0.0.1", 99, True)
    assert started["auth"] == ("me", "s:t")
    assert "Cannot run yet: no file at c.yaml" in capsys.readouterr().err


def test_a_detector_with_weights_has_a_flag_for_them(demo, started, capsys):
    main(replace(demo, weights="hed"), ["--detector", "hed.pth"])
    assert started["machine"].detector == "hed.pth"
    assert "Control maps only, no pictures yet: the detector's file ControlNetHED.pth" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(demo, ["--detector", "hed.pth"])


@pytest.mark.parametrize("wrong", [["--auth", "me"], ["--precision", "half"], ["--port", "x"], ["--no-such"]])
def test_wrong_flags_end_with_usage(demo, wrong, capsys):
    with pytest.raises(SystemExit):
        main(demo, wrong)
    assert wrong[0] in capsys.readouterr().err


def test_a_port_in_use_is_one_line(demo, full_size):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit, match=f"cannot serve on 127.0.0.1: .*{port}"):
            main(demo, ["--port", port, "--checkpoint", *full_size.checkpoints])


def test_asking_for_help_loads_neither_gradio_nor_lightning():
    code = (
        "import sys, runpy\n"
        "try: sys.argv = ['x', '--help']; runpy.run_path('gradio_canny2image.py', run_name='__main__')\n"
        "except SystemExit: print('LOADED', sorted({'gradio', 'pytorch_lightning'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "LOADED []" in output
    assert "--checkpoint" in output
