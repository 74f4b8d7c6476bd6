"""The page built from a description, the flags, and what the terminal says."""

import socket
import subprocess
import sys
from pathlib import Path

import gradio as gr
import pytest

from annotator.canny import CannyDetector
from cldm.demo import Demo, Slider, build, invert, main
from cldm.runner import Machine, Runner
from cldm.settings import ADDED_PROMPT, NEGATIVE_PROMPT

ROOT = Path(__file__).parent.parent.parent
DEMO = Demo(
    "A <title>", "canny", CannyDetector, (Slider("Low", 1, 255, 100), Slider("Value", 0.01, 2, 0.1, 0.01)), invert
)


@pytest.fixture
def full_size(tmp_path: Path) -> Machine:
    """A file that stands for Stable Diffusion's, never opened by building a page."""
    (tmp_path / "control_sd15_canny.pth").touch()
    return Machine((str(tmp_path / "control_sd15_canny.pth"),), device="cpu")


def components(page: gr.Blocks) -> dict[str, gr.blocks.Block]:
    return {block.label: block for block in page.blocks.values() if getattr(block, "label", None)}


def test_the_page_has_the_published_apps_settings(full_size):
    found = components(build(Runner(DEMO, full_size)))
    sliders = {n: (b.minimum, b.maximum, b.value, b.step) for n, b in found.items() if isinstance(b, gr.Slider)}
    assert sliders == {
        "Images": (1, 12, 1, 1),
        "Resolution": (256, 768, 512, 64),
        "Control strength": (0, 2, 1.0, 0.01),
        "Low": (1, 255, 100, 1),
        "Value": (0.01, 2, 0.1, 0.01),
        "Steps": (1, 100, 20, 1),
        "Guidance scale": (0.1, 30, 9.0, 0.1),
        "Eta (DDIM)": (0, 1, 0.0, 0.01),
    }
    assert found["Guess mode"].value is False
    assert found["Seed"].value == -1
    assert found["Sampler"].value == "ddim"
    assert [value for _, value in found["Sampler"].choices] == ["ddim", "dpm++", "unipc"]
    assert (found["Added prompt"].value, found["Negative prompt"].value) == (ADDED_PROMPT, NEGATIVE_PROMPT)


def test_a_page_without_a_model_says_what_is_missing(full_size):
    page = build(Runner(DEMO, Machine((f"{full_size.checkpoints[0]}.absent",))))
    texts = [block.value for block in page.blocks.values() if isinstance(block, gr.Markdown)]
    assert any("Cannot run yet" in text and "control_sd15_canny.pth.absent" in text for text in texts)


def test_pages_send_nothing_about_their_use(full_size):
    assert build(Runner(DEMO, full_size)).analytics_enabled is False


def click(machine: Machine, **values):
    page = build(Runner(DEMO, machine))
    (run,) = (fn for fn in page.fns.values() if fn.api_name == "run")
    return run.fn(**values)


def test_expected_errors_are_messages_without_markup(full_size, tmp_path, capsys):
    (tmp_path / "<b>.png").write_text("no picture")
    with pytest.raises(gr.Error, match=r"cannot read &lt;b&gt;.png as an image"):
        click(full_size, image={"path": str(tmp_path / "<b>.png")})
    assert "Error: cannot read <b>.png as an image" in capsys.readouterr().err


def test_out_of_memory_is_a_message(full_size, monkeypatch):
    import torch

    def run(*given):
        raise torch.OutOfMemoryError("9 GB")

    monkeypatch.setattr(Runner, "run", run)
    with pytest.raises(gr.Error, match="out of memory: ask for fewer images or a lower resolution"):
        click(full_size)


def test_flags_reach_the_machine_and_the_server(monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr("cldm.demo.build", lambda runner: seen.update(machine=runner.machine) or Launched())

    class Launched:
        def launch(self, **options):
            seen.update(options)

    given = "--checkpoint a.pth b.pth --config c.yaml --device cpu --precision bfloat16 --port 99 --share --auth me:s:t"
    main(DEMO, given.split())
    assert seen["machine"] == Machine(("a.pth", "b.pth"), "c.yaml", "cpu", "bfloat16")
    assert (seen["server_name"], seen["server_port"], seen["share"]) == ("127.0.0.1", 99, True)
    assert seen["auth"] == ("me", "s:t")
    assert "Cannot run yet: no file at c.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--auth", "me"], ["--precision", "half"], ["--port", "x"], ["--no-such"]])
def test_wrong_flags_end_with_usage(wrong, capsys):
    with pytest.raises(SystemExit):
        main(DEMO, wrong)
    assert wrong[0] in capsys.readouterr().err


def test_a_port_in_use_is_one_line(full_size):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit, match=f"cannot serve on 127.0.0.1: .*{port}"):
            main(DEMO, ["--port", port, "--checkpoint", *full_size.checkpoints])


def test_asking_for_help_loads_neither_gradio_nor_lightning():
    code = (
        "import sys, runpy\n"
        "try: sys.argv = ['x', '--help']; runpy.run_path('gradio_canny2image.py', run_name='__main__')\n"
        "except SystemExit: print('LOADED', sorted({'gradio', 'pytorch_lightning'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "LOADED []" in output
    assert "--checkpoint" in output
