"""Run folders: used ones are refused, damaged states passed over."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from cldm.training import Settings, open_run
from cldm.training.run_folder import file_of, remove_old, saved, write_settings
from cldm.training.state import StateError

GOOD = dict.fromkeys(("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops", "global_step"), 0)


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(output=str(tmp_path / "run"))


@pytest.fixture
def folder(settings) -> Path:
    Path(settings.output).mkdir()
    return Path(settings.output)


def state(folder: Path, step: int) -> Path:
    path = file_of(folder, "state", step)
    torch.save({**GOOD, "global_step": step}, path)
    return path


def test_a_free_folder_is_made(settings):
    assert open_run(settings) is None
    assert Path(settings.output).is_dir()


@pytest.mark.parametrize(
    "name",
    ["settings.yaml", "control_000500.safetensors", "state_000500.pt", "image_log", "control_best.safetensors"],
)
def test_a_used_folder_is_refused(settings, folder, name):
    (folder / name).mkdir() if name == "image_log" else (folder / name).write_text("precious")
    with pytest.raises(FileExistsError, match=rf"run in it \({name}\).*resume=auto.*output=FOLDER"):
        open_run(settings)


def test_logs_and_weights_to_start_from_make_no_run(settings, folder):
    (folder / "lightning_logs").mkdir()
    (folder / "control_mini_ini.safetensors").touch()
    assert open_run(settings) is None


@pytest.mark.parametrize("name", ["control_010000.safetensors", "model_010000.safetensors", "base_010000.safetensors"])
def test_auto_does_not_begin_anew_where_states_were_removed(settings, folder, name):
    (folder / name).write_text("precious")
    with pytest.raises(FileExistsError, match=rf"{name} but no state.*output=FOLDER.*control=FILE"):
        open_run(replace(settings, resume="auto", save_freq=5000))


def test_auto_begins_anew_after_a_kill_before_the_first_state(settings, folder):
    for name in ("settings.yaml", "control_best.safetensors", "control_005000.safetensors"):
        (folder / name).touch()
    assert open_run(replace(settings, resume="auto", save_freq=5000)) is None


def test_auto_takes_the_newest(settings, folder, capfd):
    state(folder, 999999)
    newest = state(folder, 1000000)
    assert open_run(replace(settings, resume="auto")) == newest


def test_auto_begins_where_there_is_nothing_yet(settings, folder):
    (folder / ".control_000500.safetensors.77.unfinished").touch()
    assert open_run(replace(settings, resume="auto")) is None
    assert not list(folder.iterdir()), "what a killed process left is removed"


def test_a_damaged_newest_state_is_passed_over_and_told(settings, folder, monkeypatch):
    told = []
    monkeypatch.setattr("cldm.training.run_folder.rank_zero_info", told.append)
    good, bad = state(folder, 2), state(folder, 4)
    bad.write_bytes(bad.read_bytes()[:-100])
    assert open_run(replace(settings, resume="auto")) == good
    assert "state_000004.pt is cut short or damaged" in told[0]
    assert "going on from" in told[1]
    assert "state_000002.pt" in told[1]


def test_where_all_are_damaged_nothing_is_begun_anew(settings, folder):
    state(folder, 2).write_text("damaged")
    with pytest.raises(StateError, match="none of the 1 states"):
        open_run(replace(settings, resume="auto"))


def test_a_named_state_is_taken_into_a_new_folder_but_not_over_later_files(settings, folder, tmp_path):
    earlier = state(folder, 2)
    state(folder, 4)
    named = replace(settings, resume=str(earlier))
    assert open_run(replace(named, output=str(tmp_path / "other"))) == earlier
    with pytest.raises(FileExistsError, match=r"later files than state_000002\.pt, state_000004\.pt"):
        open_run(named)


def test_a_state_that_people_have_named_says_its_step_itself(settings, folder):
    named = state(folder, 500).rename(folder / "good.pt")
    (folder / "control_000500.safetensors").touch()
    again = replace(settings, resume=str(named))
    assert open_run(again) == named
    (folder / "control_001000.safetensors").touch()
    with pytest.raises(FileExistsError, match=r"later files than good\.pt, control_001000"):
        open_run(again)


def test_other_processes_do_not_ask_whether_the_first_has_begun(settings, folder, monkeypatch):
    (folder / "settings.yaml").touch()
    monkeypatch.setattr("cldm.training.run_folder.rank_zero_only.rank", 1)
    assert open_run(settings) is None


def test_the_newest_are_kept(tmp_path):
    for step in (1, 20, 300, 1000000):
        file_of(tmp_path, "control", step).touch()
    (tmp_path / "control_best.safetensors").touch()
    remove_old(tmp_path, "control", keep=0)
    assert len(saved(tmp_path, "control")) == 4
    remove_old(tmp_path, "control", keep=2)
    assert [file.name for file in saved(tmp_path, "control")] == [
        "control_000300.safetensors",
        "control_1000000.safetensors",
    ]
    assert (tmp_path / "control_best.safetensors").exists()


def test_files_that_people_have_named_are_left_alone(tmp_path):
    own = ["control_good_000900.safetensors", "control_5.safetensors", "state_backup_000900.pt"]
    for name in (*own, "control_000100.safetensors", "control_000200.safetensors"):
        (tmp_path / name).touch()
    assert [file.name for file in saved(tmp_path, "control")] == [
        "control_000100.safetensors",
        "control_000200.safetensors",
    ]
    assert saved(tmp_path, "state") == []
    remove_old(tmp_path, "control", 1)
    assert {file.name for file in tmp_path.iterdir()} == {*own, "control_000200.safetensors"}


def test_settings_are_saved_and_changed_ones_beside_them(settings, folder):
    write_settings(settings, 0)
    assert Settings(**yaml.safe_load((folder / "settings.yaml").read_text())) == settings
    write_settings(replace(settings, resume="auto"), 500)
    assert [file.name for file in folder.iterdir()] == ["settings.yaml"]
    write_settings(replace(settings, resume="auto", batch_size=2), 500)
    assert yaml.safe_load((folder / "settings_from_000500.yaml").read_text())["batch_size"] == 2
    assert yaml.safe_load((folder / "settings.yaml").read_text())["batch_size"] == 4
