"""Settings of a training run and their messages; the saved ControlNet."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny
from cldm.training import SaveControl, Settings, changed, from_command_line, require
from cldm.weights.reading import read_weights

ROOT = Path(__file__).resolve().parents[2]


def test_every_kind_of_setting_can_be_changed():
    given = ["batch_size=2", "learning_rate=2e-6", "sd_locked=false", "only_mid_control=True", "dataset=./my data"]
    settings = changed(Settings(), given)
    expected = replace(
        Settings(), batch_size=2, learning_rate=2e-6, sd_locked=False, only_mid_control=True, dataset="./my data"
    )
    assert settings == expected


@pytest.mark.parametrize(("given", "cache"), [("true", True), ("False", False), ("./my cache", "./my cache")])
def test_a_cache_is_switched_on_or_put_somewhere(given, cache):
    assert changed(Settings(), [f"cache={given}"]).cache == cache


def test_half_of_the_prompts_are_dropped_as_in_the_paper():
    assert Settings().prompt_dropout == 0.5


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("batchsize=2", r"name=value with a name of .*batch_size.*, got 'batchsize=2'"),
        ("batch_size", "name=value"),
        ("batch_size=two", "two"),
        ("batch_size=0", "batch_size must be at least 1, got 0"),
        ("learning_rate=-1", "learning_rate must be positive"),
        ("max_steps=0", "max_steps must be at least 1, or -1"),
        ("num_workers=-1", "num_workers must be 0 or more"),
        ("prompt_dropout=1.5", "prompt_dropout must be between 0 and 1, got 1.5"),
        ("seed=-1", "seed must be from 0 to 4294967295, got -1"),
    ],
)
def test_a_wrong_assignment_is_one_message(assignment, message):
    with pytest.raises(ValueError, match=message):
        changed(Settings(), [assignment])


def test_on_the_command_line_a_message_and_no_traceback():
    with pytest.raises(SystemExit, match=r"^error: batch_size must be at least 1, got 0$"):
        from_command_line(Settings(), ["batch_size=0"])


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
    assert require(settings, "") == tmp_path / "control.safetensors"


class Trainer:
    is_global_zero = True

    def __init__(self, step: int):
        self.global_step = step


@pytest.mark.parametrize("sd_locked", [True, False])
def test_what_was_trained_is_saved(tmp_path, sd_locked):
    model = tiny.control_ldm()
    model.sd_locked = sd_locked
    trained = {id(p) for p in model.trained_parameters()}
    callback = SaveControl(tmp_path, every=10)
    callback.on_train_batch_end(Trainer(9), model, None, None, 0)
    assert not list(tmp_path.iterdir())
    callback.on_train_batch_end(Trainer(10), model, None, None, 0)
    callback.on_train_end(Trainer(10), model)
    saved = read_weights(tmp_path / "control_000010.safetensors")
    expected = {name: p for name, p in model.named_parameters() if id(p) in trained}
    assert set(saved) == set(expected)
    assert all(torch.equal(saved[name], expected[name]) for name in expected)


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
