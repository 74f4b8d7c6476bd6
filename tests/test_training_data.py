"""tutorial_train.py on shards and on images of other sizes, and when reading fails."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tool_make_shards
import training_runs
from cldm.data.watch import WorkerFailure
from cldm.training import Settings
from cldm.training.run_folder import file_of
from cldm.weights.reading import read_weights
from training_runs import Record, run
from tutorial_dataset import load_item


@pytest.fixture(scope="module")
def on_shards(tmp_path_factory) -> Settings:
    """Settings of a run on 4 shards of up to 2 samples, 3 steps an epoch."""
    folder = tmp_path_factory.mktemp("shards")
    settings = training_runs.tiny_settings(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tool_make_shards.py", settings.dataset, str(folder / "packed"), "--samples", "2"])
        tool_make_shards.main()
    few = {"max_steps": 5, "save_freq": 4}
    return replace(settings, dataset=str(folder / "packed"), shard_lanes=2, shuffle_buffer=4, **few)


@pytest.fixture(scope="module")
def in_one_go(on_shards) -> Record:
    return run(on_shards)


def weights(settings: Settings, step: int) -> bytes:
    return file_of(Path(settings.output), "control", step).read_bytes()


def test_shards_are_trained_on_each_sample_once_an_epoch(in_one_go):
    epochs = [[i for _, epoch, indices in in_one_go.seen if epoch == k for i in indices] for k in range(2)]
    assert [len(set(indices)) for indices in epochs] == [len(indices) for indices in epochs] == [6, 4]
    assert epochs[0][:4] != epochs[1]


@pytest.fixture
def _no_readers_before(monkeypatch):
    """As in a process that has had none: torch has not begun to listen for their deaths."""
    monkeypatch.setattr(torch.utils.data._utils.signal_handling, "_SIGCHLD_handler_set", False)
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("_no_readers_before")
def test_with_readers_the_weights_are_the_same(on_shards, in_one_go, tmp_path):
    settings = replace(on_shards, num_workers=2, max_steps=4, output=str(tmp_path))
    assert run(settings).seen == in_one_go.seen[:4]
    ours, theirs = (read_weights(file_of(Path(s.output), "control", 4)) for s in (settings, on_shards))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert callable(signal.getsignal(signal.SIGCHLD)), "the next training would not hear of a reader's death"


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_resumed_in_the_middle_of_an_epoch_a_run_ends_with_the_same_bytes(on_shards, in_one_go, tmp_path, num_workers):
    whole = replace(on_shards, num_workers=num_workers, output=str(tmp_path / "whole")) if num_workers else on_shards
    if num_workers:
        run(whole)
    settings = replace(whole, output=str(tmp_path / "cut"))
    cut = Record(2, lambda: os.kill(os.getpid(), signal.SIGINT))  # which is saved, two steps into an epoch of three
    with pytest.raises(SystemExit):
        run(settings, cut)
    rest = run(replace(settings, resume="auto"))
    assert cut.seen + rest.seen == in_one_go.seen
    assert weights(settings, 5) == weights(whole, 5)


class Shapes(Record):
    """Keeps the shapes of batches as well."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.shapes = tuple(batch["jpg"].shape), tuple(batch["hint"].shape)


def test_images_of_any_sizes_are_trained_at_one_and_judged_at_it(on_shards, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for name, size in (("a", (100, 70)), ("b", (64, 128))):
        for kind in ("source", "target"):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{kind}_{name}.png")
        rows.append({"source": f"source_{name}.png", "target": f"target_{name}.png", "prompt": name})
    (tmp_path / "prompt.json").write_text("\n".join(map(json.dumps, rows)))
    settings = replace(on_shards, dataset=str(tmp_path), size=64, framing="crop", max_steps=1)
    record = run(replace(settings, validation=str(tmp_path), output=str(tmp_path / "run")), Shapes())
    assert record.shapes == ((2, 64, 64, 3), (2, 64, 64, 3))
    with Image.open(tmp_path / "run/validation/samples_000001.png") as judged:
        assert judged.size == (2 * 64, 3 * 64)  # hints, samples and targets of both pairs


def test_a_reader_that_is_killed_in_training_is_one_error(on_shards, tmp_path, monkeypatch):
    def load(sample, **how):
        if sample.shard.endswith("shard-00002.tar"):
            os.kill(os.getpid(), signal.SIGKILL)
        return load_item(sample, **how)

    monkeypatch.setattr("tutorial_dataset.load_item", load)
    with pytest.raises(WorkerFailure, match=r"ended \(.*\) while it read \S+shard-00002.tar, sample \d"):
        run(replace(on_shards, num_workers=1, worker_timeout=30, output=str(tmp_path)))


@pytest.mark.slow
def test_a_damaged_sample_is_one_message_of_the_script(on_shards, tmp_path):
    settings = replace(training_runs.tiny_settings(tmp_path), num_workers=1)
    for file in Path(settings.dataset, "target").iterdir():
        file.write_bytes(file.read_bytes()[:200])
    given = [f"{name}={getattr(settings, name)}" for name in Settings.__dataclass_fields__]
    command = [sys.executable, "tutorial_train.py", *given]
    ended = subprocess.run(command, cwd=training_runs.ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "error: " in ended.stderr.splitlines()[-1]
    assert "prompt.json, line " in ended.stderr.splitlines()[-1]
