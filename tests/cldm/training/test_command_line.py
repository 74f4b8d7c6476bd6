"""Settings from the command line, and what is missing for a run."""

import subprocess
import sys
from pathlib import Path

import pytest

from cldm.training import Settings, from_command_line, require

ROOT = Path(__file__).resolve().parents[3]


def test_on_the_command_line_a_message_and_no_traceback():
    with pytest.raises(SystemExit, match=r"^error: batch_size must be at least 1, got 0$"):
        from_command_line(Settings(), ["batch_size=0"])


@pytest.mark.parametrize(
    "text",
    ["2024_05_01", "0123", "1e3", "12:30", "yes", "runs/a # b", "{train,val}-{00..10}.tar", "a: b", "[1", "", "~"],
)
def test_texts_are_taken_as_they_are(text):
    assert from_command_line(Settings(), [f"output={text}"]).output == text


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("cache=true", True),
        ("cache=caches/1", "caches/1"),
        ("devices=0,2", "0,2"),
        ("devices=4", 4),
        ("size=512x768", "512x768"),
        ("size=512", 512),
        ("learning_rate=1e-5", 1e-5),
        ("gradient_clip=1", 1.0),
        ("sd_locked=false", False),
    ],
)
def test_numbers_and_truth_values_are_such(assignment, expected):
    name = assignment.partition("=")[0]
    found = getattr(from_command_line(Settings(), [assignment]), name)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("assignment", ["batch_size=a: b", "batch_size=", "sd_locked=[1", "learning_rate=fast"])
def test_what_is_no_number_is_one_message(assignment):
    with pytest.raises(SystemExit, match=r"^error: [^\n]*$"):
        from_command_line(Settings(), [assignment])


def test_the_folder_is_the_users_own_wherever_the_shell_leaves_that_to_us(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert Settings(output="~/runs/1").folder == Path("/home/someone/runs/1")


def test_help_shows_every_setting_and_its_default():
    with pytest.raises(SystemExit) as shown:
        from_command_line(Settings(), ["--help"])
    for name in Settings.__dataclass_fields__:
        assert f"{name}={getattr(Settings(), name)}" in str(shown.value)
        assert f"{name}: " in str(shown.value)


def test_all_that_is_missing_is_told_at_once_with_the_commands_that_make_it(tmp_path):
    settings = Settings(resume_path=str(tmp_path / "control_sd15_ini.ckpt"), dataset=str(tmp_path / "fill50k"))
    with pytest.raises(FileNotFoundError) as error:
        require(settings, "tool_add_control.py ./models/v1-5-pruned.ckpt")
    assert f"python tool_add_control.py ./models/v1-5-pruned.ckpt {tmp_path}/control_sd15_ini.ckpt" in str(error.value)
    assert f"python tool_make_fill50k.py --output {tmp_path}/fill50k" in str(error.value)


def test_weights_are_found_in_the_other_formats_too(tmp_path):
    (tmp_path / "control.safetensors").touch()
    (tmp_path / "prompt.json").touch()
    settings = Settings(
        config=str(ROOT / "models/cldm_v15.yaml"), resume_path=str(tmp_path / "control.ckpt"), dataset=str(tmp_path)
    )
    assert require(settings, "").files == (tmp_path / "control.safetensors",)


@pytest.mark.parametrize("script", ["tutorial_train.py", "tutorial_train_sd21.py"])
def test_the_scripts_end_in_one_message_where_nothing_is_there(script, tmp_path):
    run = subprocess.run(
        [sys.executable, ROOT / script, f"dataset={tmp_path}", f"resume_path={tmp_path}/none.ckpt"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.count("error: ") == 1
    assert "Traceback" not in run.stderr
    tool = "tool_add_control_sd21.py" if "sd21" in script else "tool_add_control.py"
    assert f"python {tool} ./models/" in run.stderr
