"""Runs in processes of their own: killed ones, and two that train together on the CPU by gloo."""

import filecmp
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from cldm.launched import LaunchError
from cldm.training import processes
from cldm.training.processes import ending_together, of_all_processes
from cldm.training.run_folder import file_of
from cldm.weights.reading import read_weights
from training_runs import run, run_apart, seen_by


def test_alone_a_process_is_all_processes():
    assert of_all_processes({"a": 1}) == [{"a": 1}]


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_where_one_fails_those_that_it_started_end_as_well(monkeypatch, error):
    monkeypatch.setattr(processes, "_GRACE", 0.1)
    launcher = _SubprocessScriptLauncher(LightningEnvironment(), num_processes=3, num_nodes=1)
    waits = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    launcher.procs = [waits, ended]
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
    with ending_together(trainer):
        pass
    assert waits.poll() is None
    with pytest.raises(error), ending_together(trainer):
        raise error
    assert (waits.returncode, ended.returncode) == (-signal.SIGKILL, 0)
    assert launcher.procs == [], "or Lightning's watch of them kills this process"


def test_a_failure_without_processes_of_ones_own_passes():
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=None))
    with pytest.raises(ZeroDivisionError), ending_together(trainer):
        raise ZeroDivisionError


def test_processes_that_the_settings_do_not_ask_for_do_not_begin(settings, monkeypatch):
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match="processes: 2, but the settings ask for 1"):
        run(settings)
    assert not Path(settings.output).exists()


def test_killed_and_resumed_a_run_ends_with_the_same_bytes(settings, whole, tmp_path):
    killed = run_apart(settings, tmp_path / "notes", f"{int(signal.SIGKILL)}@6")
    assert killed.returncode == -signal.SIGKILL
    folder = Path(settings.output)
    assert not file_of(folder, "control", 6).exists()
    rest = run(replace(settings, resume="auto"))
    assert rest.seen == whole[1].seen[4:]
    assert filecmp.cmp(file_of(folder, "control", 8), file_of(whole[0], "control", 8), shallow=False)


@pytest.fixture(scope="module")
def two(tiny_settings, tmp_path_factory) -> tuple[Path, Path]:
    """The folders of a run of two processes, one sample each a step, and of their notes."""
    folder = tmp_path_factory.mktemp("two")
    settings = replace(
        tiny_settings, output=str(folder), devices=2, batch_size=1, max_steps=3, save_freq=3, logger_freq=3
    )
    ended = run_apart(settings, folder / "notes")
    assert ended.returncode == 0, ended.stderr
    return folder, folder / "notes"


def test_two_processes_see_each_sample_once_and_what_one_with_the_double_batch_sees(two, whole):
    together = [
        (step, epoch, first + second)
        for (step, epoch, first), (_, _, second) in zip(seen_by(two[1], 0), seen_by(two[1], 1), strict=True)
    ]
    assert together == whole[1].seen[:3]
    assert len({index for _, _, indices in together for index in indices}) == 6


def test_their_gradients_are_those_of_one_with_the_double_batch(two, whole):
    gradients = torch.load(two[1] / "gradients.pt", weights_only=True)
    assert gradients.keys() == whole[1].gradients.keys()
    for name, expected in whole[1].gradients.items():
        largest = expected.abs().max().item()  # of a bias before a normalisation, it is rounding alone
        torch.testing.assert_close(gradients[name], expected, rtol=0, atol=1e-4 * largest + 1e-8, msg=name)
    assert any(gradient.any() for gradient in gradients.values())


def test_everything_is_written_once(two):
    files = {file.name for file in two[0].iterdir() if file.is_file()}
    assert files == {"settings.yaml", "control_000003.safetensors", "state_000003.pt"}
    assert len(list(two[0].glob("lightning_logs/**/events.out.tfevents.*"))) == 1
    assert len(list(two[0].glob("lightning_logs/**/metrics.csv"))) == 1
    assert len(list(two[0].glob("image_log/train/*.png"))) == 8  # four kinds, at steps 1 and 3


def test_one_process_goes_on_where_two_were(two, whole, settings):
    rest = run(replace(settings, resume=str(two[0] / "state_000003.pt")))
    assert rest.seen == whole[1].seen[3:]
    ours, theirs = (read_weights(file_of(folder, "control", 8)) for folder in (Path(settings.output), whole[0]))
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=5e-3, msg=name)  # Adam enlarges rounding


@pytest.mark.slow
def test_with_the_middle_connection_alone_no_parameter_is_unused(settings, tmp_path):
    ended = run_apart(
        replace(settings, only_mid_control=True, devices=2, batch_size=1, max_steps=2), tmp_path / "notes"
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(settings, tmp_path):
    ended = run_apart(replace(settings, devices=2, batch_size=1), tmp_path / "notes", f"{int(signal.SIGTERM)}@3")
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    assert "another process of the run got a signal" in ended.stderr
    assert [len(seen_by(tmp_path / "notes", rank)) for rank in (0, 1)] == [3, 3]
    assert file_of(Path(settings.output), "state", 3).is_file()
    assert run(replace(settings, resume="auto", max_steps=4)).seen[0][0] == 4


@pytest.mark.slow
def test_processes_may_be_spawned(settings, tmp_path):
    ended = run_apart(replace(settings, devices=2, batch_size=1, max_steps=2, strategy="ddp_spawn"), tmp_path / "notes")
    assert ended.returncode == 0, ended.stderr
    assert file_of(Path(settings.output), "control", 2).is_file()


@pytest.mark.slow
def test_torchrun_starts_a_run(settings, tmp_path):
    ended = run_apart(replace(settings, devices=2, batch_size=1, max_steps=2), tmp_path / "notes", torchrun=2)
    assert ended.returncode == 0, ended.stderr
    assert len(seen_by(tmp_path / "notes", 1)) == 2
    assert file_of(Path(settings.output), "control", 2).is_file()
