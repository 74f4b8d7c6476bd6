"""The command line."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from annotator.canny import CannyDetector
from annotator.catalogue import CATALOGUE
from annotator.hed import HEDdetector
from parity import filled_state_dict, published_names
from tool_annotate import _workers, main
from tutorial_dataset import MyDataset

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the tool's `main` in a folder with images in `in`; gives its exit code."""
    (tmp_path / "in").mkdir()
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[20:60, 30:70] = (250, 120, 30)
    for name in ("square", "twin"):
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
        (tmp_path / "in" / f"{name}.txt").write_text(f"an orange {name}")
    monkeypatch.chdir(tmp_path)

    def tool(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["tool_annotate.py", "in", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        if isinstance(end.value.code, str):  # as Python does at the end of a script
            print(end.value.code, file=sys.stderr)
            return 1
        return end.value.code

    return tool


def test_the_result_is_a_training_set(run, tmp_path, capsys):
    options = ("--training-set", "--resolution", "128", "--low-threshold", "50")
    assert run("--detector", "canny", "--out", "set", *options) == 0
    assert "set: 2 maps made, 0 kept, 2 rows in prompt.json, problems: 0" in capsys.readouterr().out
    dataset = MyDataset(tmp_path / "set")
    assert [item["txt"] for item in dataset] == ["an orange square", "an orange twin"]
    assert dataset[0]["hint"].shape == dataset[0]["jpg"].shape == (128, 128, 3)
    assert set(np.unique(dataset[0]["hint"])) == {0, 1}


def test_a_gpu_works_on_one_image_at_a_time_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr("tool_annotate.choose_device", torch.device)
    assert _workers(CATALOGUE["hed"], "cuda") == 1
    assert _workers(CATALOGUE["hed"], "cpu") == _workers(CATALOGUE["canny"], "cuda") == torch.get_num_threads()


def test_an_image_too_large_for_the_memory_is_listed_and_the_others_made(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "in" / "small.png").write_bytes((tmp_path / "in" / "twin.png").read_bytes())
    detect = CannyDetector.__call__
    images = iter(range(9))

    def lacking(self, *arguments, **options):
        if next(images) == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return detect(self, *arguments, **options)

    monkeypatch.setattr(CannyDetector, "__call__", lacking)
    assert run("--detector", "canny", "--out", "maps", "--workers", "1") == 1
    told = capsys.readouterr()
    assert "out of memory: --workers 1 needs the least" in told.err
    assert "maps: 2 maps made, 0 kept, problems: 1" in told.out


def test_a_detector_with_weights_and_a_broken_image(run, tmp_path, capsys):
    torch.save(filled_state_dict(published_names("ControlNetHED.pth")), tmp_path / "ControlNetHED.pth")
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no image")
    assert run("--detector", "hed", "--out", "maps", "--checkpoints", ".", "--device", "cpu") == 1
    told = capsys.readouterr()
    assert "broken.jpg: cannot read broken.jpg as an image" in told.err
    assert "maps: 2 maps made, 0 kept, problems: 1" in told.out
    expected = HEDdetector(tmp_path, "cpu")(np.asarray(Image.open(tmp_path / "in" / "twin.png")))
    made = np.asarray(Image.open(tmp_path / "maps" / "twin.png"))
    assert np.abs(made.astype(int) - expected).max() <= 1  # other threads, another order of sums


def test_hands_without_their_file_are_refused_before_anything_is_written(run, tmp_path, capsys):
    torch.save(filled_state_dict(published_names("body_pose_model.pth")), tmp_path / "body_pose_model.pth")
    arguments = ("--detector", "openpose", "--hand", "--out", "maps", "--checkpoints", ".", "--device", "cpu")
    assert run(*arguments) == 1
    assert re.search("error: no checkpoint at hand_pose_model.pth.*openpose_hand --to", capsys.readouterr().err)
    assert not (tmp_path / "maps").exists()


def test_other_weights_are_not_mixed_and_a_finished_folder_needs_none(run, tmp_path, capsys):
    hed = tmp_path / "ControlNetHED.pth"
    torch.save(filled_state_dict(published_names(hed.name)), hed)
    arguments = ("--detector", "hed", "--out", "maps", "--checkpoints", ".", "--device", "cpu")
    assert run(*arguments) == 0
    assert json.loads((tmp_path / "maps" / "annotate.json").read_text())["weights"] == {hed.name: hed.stat().st_size}
    hed.write_bytes(hed.read_bytes() + b"more")
    assert run(*arguments) == 1
    assert re.search("error: the maps in maps were made with .*'weights': .*asked for is", capsys.readouterr().err)
    hed.unlink()
    assert run(*arguments) == 0


def test_lack_of_memory_for_the_weights_is_one_line(run, tmp_path, monkeypatch, capsys):
    def lacking(self, *arguments, **options):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(CannyDetector, "__init__", lacking)
    assert run("--detector", "canny", "--out", "maps") == 1
    assert "error: out of memory: close other programs, or try --device cpu" in capsys.readouterr().err


def test_files_of_other_kinds_are_said(run, tmp_path, capsys):
    (tmp_path / "in" / "phone.heic").touch()
    assert run("--detector", "canny", "--out", "maps") == 0
    assert "maps: 2 maps made, 0 kept, problems: 0, left out: 1 of other kinds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--detector", "hed"], "error: no checkpoint at .*tool_download.py hed --to .*/none`.*--checkpoints FOLDER"),
        (["--detector", "canny", "--hand"], "error: --hand is no option of canny; it has --low-threshold, --high-"),
        (["--detector", "canny", "--low-threshold", "0"], "error: Low threshold must be a number from 1 to 255"),
        (["--detector", "midas", "--map", "fog"], "error: midas has no map 'fog'; expected one of depth, normal"),
        (["--detector", "fog"], "argument --detector: invalid choice: 'fog'"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, capsys, arguments, complaint):
    (tmp_path / "none").mkdir()
    assert run(*arguments, "--out", "maps", "--checkpoints", "none") > 0
    assert re.search(complaint, capsys.readouterr().err)
    assert not (tmp_path / "maps").exists()
