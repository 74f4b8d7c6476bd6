"""The command line."""

import errno
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from cldm.again import Again
from cldm.demo import Demo
from cldm.records import pixels_of, read_record
from tool_generate import controls, demo_of, main

Run = Callable[..., int]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of the tiny model."""
    config, checkpoint = tiny.write_model(tmp_path_factory.mktemp("model"))
    return ["--checkpoint", str(checkpoint), "--config", str(config), "--device", "cpu"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: list[str]) -> Run:
    """Runs the tool in a folder with two images and captions in `in`; gives its exit code."""
    (tmp_path / "in").mkdir()
    pixels = np.zeros((64, 64, 3), np.uint8)
    for name, side in (("small", 16), ("tall", 30)):
        pixels[8 : 8 + side, 8:40] = (250, 120, 30)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
        (tmp_path / "in" / f"{name}.txt").write_text(f"{name} square")
    monkeypatch.chdir(tmp_path)

    def tool(*arguments: str, flags: list[str] = model) -> int:
        with pytest.raises(SystemExit) as end:
            main([*arguments, *flags])
        if isinstance(end.value.code, str):  # as Python does at the end of a script
            print(end.value.code, file=sys.stderr)
            return 1
        return end.value.code

    return tool


def test_a_folder_is_done_gone_on_with_and_made_again_from_metadata_alone(run, tmp_path, capsys):
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    command = ("in", "--control", "canny", "--out", "out", "steps=1", "seed=4", "--prompt", "a bird", "eta=0.5")
    assert run(*command) == 1
    told = capsys.readouterr()
    assert "out: 2 images made, 0 kept, problems: 1" in told.out
    assert "in/broken.png: cannot read broken.png as an image" in told.err
    (tmp_path / "in" / "broken.png").unlink()
    assert run(*command) == 0
    assert "out: 0 images made, 2 kept, problems: 0" in capsys.readouterr().out
    images = sorted((tmp_path / "out").iterdir())
    record = read_record(images[0])
    assert (record.prompt, record.seed, record.settings.eta) == ("a bird", 4, 0.5)

    assert run("--again", *map(str, images), "--out", "again", flags=[]) == 0
    said = capsys.readouterr()
    for image in images:
        assert (tmp_path / "again" / image.name).read_bytes() == image.read_bytes()
        assert f"again/{image.name}: the same bytes as {image}" in said.out
    (tmp_path / "again" / images[1].name).unlink()
    assert run("--again", *map(str, images), "--out", "again", flags=[]) == 0
    said = capsys.readouterr()
    assert f"again/{images[0].name}: kept, it is there already" in said.out
    assert f"again/{images[1].name}: the same bytes as {images[1]}" in said.out


def test_again_with_flags_of_its_own_keeps_nothing(run, tmp_path, capsys):
    assert run("in/small.png", "--control", "canny", "--out", "out", "steps=1", "seed=4") == 0
    (image,) = (tmp_path / "out").iterdir()
    assert run("--again", str(image), "--out", "again", flags=[]) == 0
    assert run("--again", str(image), "--out", "again", flags=["--save-memory"]) == 1
    assert "exists and is not overwritten" in capsys.readouterr().err


def test_again_computes_nothing_for_a_name_that_is_taken(run, tmp_path, monkeypatch, capsys):
    assert run("in", "--control", "canny", "--out", "out", "steps=1", "seed=4") == 0
    one, other = sorted((tmp_path / "out").iterdir())
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / one.name).write_bytes(other.read_bytes())
    monkeypatch.setattr(Again, "make", lambda *_: pytest.fail("made"))
    for folder in ("again", "out"):
        assert run("--again", str(one), "--out", folder, flags=[]) == 1
        assert "exists and is not overwritten" in capsys.readouterr().err


def test_lines_of_jobs_and_a_malformed_one(run, tmp_path, capsys):
    lines = [{"image": "in/small.png", "name": "a/b"}, {"image": "in/tall.png", "control": "none", "guess_mode": True}]
    (tmp_path / "jobs.jsonl").write_text(f"{json.dumps(lines[0])}\n{{\n{json.dumps(lines[1])}\n")
    assert run("jobs.jsonl", "--control", "scribble", "--out", "out", "steps=1", "sampler=unipc") == 1
    told = capsys.readouterr()
    assert "jobs.jsonl, line 2: expected a JSON object" in told.err
    assert "out: 2 images made, 0 kept, problems: 1" in told.out
    (scribble,) = (read_record(path) for path in (tmp_path / "out" / "a").glob("b-*.png"))
    (none,) = (read_record(path) for path in (tmp_path / "out").glob("tall-*.png"))
    assert (scribble.prompt, none.prompt) == ("small square", "tall square")
    assert (scribble.controls[0].kind, scribble.controls[0].is_map) == ("scribble", False)
    assert (none.controls[0].kind, none.controls[0].is_map) == ("", True)
    assert (scribble.settings.guess_mode, none.settings.guess_mode) == (False, True)
    assert scribble.settings.sampler == none.settings.sampler == "unipc"


def test_again_takes_the_machines_flags_and_says_what_they_change(run, tmp_path, model, capsys):
    assert run("in/small.png", "--control", "canny", "--out", "out", "steps=1", "seed=4") == 0
    (image,) = (tmp_path / "out").iterdir()
    flags = ["--config", model[3], "--save-memory"]
    assert run("--again", str(image), "--out", "again", flags=flags) == 0
    said = capsys.readouterr()
    assert f"{image}: save_memory: False then, True now" in said.err
    assert read_record(tmp_path / "again" / image.name).runtime.flags == {"save_memory": True, "compile": False}


@pytest.mark.parametrize(
    "words", [("--prompt", "a cat"), ("--prompt", ""), ("--control", "hed"), ("--also", "canny"), ("--detector", "x")]
)
def test_again_refuses_what_it_has_no_use_for(run, tmp_path, capsys, words):
    assert run("--again", "in/small.png", "--out", "out", *words) == 1
    complaint = f"error: --again takes everything from the image, got {words[0]} as well; leave it out"
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_image_too_large_for_the_memory_is_listed_and_the_others_made(run, tmp_path, monkeypatch, capsys):
    assert run("in", "--control", "canny", "--out", "out", "steps=1", "seed=4") == 0
    images = sorted((tmp_path / "out").iterdir())
    make = Again.make

    def small(again, record, progress):
        if record.prompt == "small square":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return make(again, record, progress)

    monkeypatch.setattr(Again, "make", small)
    assert run("--again", *map(str, images), "--out", "again", flags=[]) == 1
    said = capsys.readouterr()
    assert f"{images[0]}: out of memory: --save-memory needs less" in said.err
    assert f"again/{images[1].name}: the same bytes as" in said.out


def test_a_detectors_weights_do_not_keep_others_from_working(run, capsys):
    for control in ("canny", "scribble"):
        assert run("in", "--control", control, "--out", "out", "steps=1", "--detector", "none") == 0
    (Path("in") / "small.png").unlink()
    assert run("in/tall.png", "--control", "hed", "--out", "out", "--also", "canny", "detector=x") == 1
    assert "canny has no detector with weights, got 'x'; leave it out" in capsys.readouterr().err


def test_a_file_for_the_canvas_is_a_scribble(run, tmp_path):
    paper = np.full((64, 64, 3), 255, np.uint8)
    paper[20:30] = 0
    Image.fromarray(paper).save(tmp_path / "in" / "small.png")
    for control in ("scribble", "scribble_interactive"):
        assert run("in/small.png", "--control", control, "--out", control, "steps=1", "seed=4") == 0
    drawn, by_file = (read_record(*Path(out).iterdir()) for out in ("scribble_interactive", "scribble"))
    assert drawn.controls[0].png == by_file.controls[0].png
    assert (np.flatnonzero(pixels_of(drawn.controls[0].png)[:, 0, 0]) == range(20, 30)).all()


def test_an_image_to_start_from_needs_no_denoise(run, tmp_path):
    command = ("in/small.png", "--control", "canny", "--out", "out", "steps=4", "seed=4", "init_image=in/tall.png")
    assert run(*command) == 0
    (image,) = (tmp_path / "out").iterdir()
    assert read_record(image).settings.denoise == 0.75


def test_every_app_is_a_control():
    assert {"canny", "hough", "hed", "fake_scribble", "pose", "seg", "depth", "normal"} <= set(controls())
    for control in controls():
        assert isinstance(demo_of(control), Demo)
        assert demo_of(control).name == control


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["in", "--control", "hed"], "hed: the detector's file .* run `python tool_download.py hed --to .*/none`"),
        (["in", "--control", "fog"], r"2 jobs of fog: control must be one of canny, .* or none, got 'fog'"),
        (["in"], "error: expected the name of a control for in"),
        (
            ["in", "--control", "canny", "--out", "in"],
            "error: images and results would be in the same folder, in; give",
        ),
        (["in", "in", "--control", "canny"], "error: expected one image, folder or .jsonl of jobs, got 2: in, in"),
        (
            ["--control", "canny"],
            "error: expected one image, folder or .jsonl of jobs, got none; --checkpoint took .*: ",
        ),
        (["absent", "--control", "canny"], "error: no file or folder at absent"),
        (["in", "--control", "canny", "warmth=3"], "in/small.png: canny has no setting warmth; it has added_prompt"),
        (
            ["in", "--control", "canny", "steps=all"],
            "in/small.png: steps must be a whole number from 1 to 1000, got 'all'",
        ),
        (
            ["steps=3", "--again", "in/small.png"],
            "error: --again takes everything from the image, got steps=3 --detector",
        ),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, capsys, arguments, complaint):
    (tmp_path / "none").mkdir()
    assert run("--out", "out", "--detector", "none", *arguments) > 0
    said = capsys.readouterr().err
    assert re.search(complaint, said), said
    assert not list((tmp_path / "out").glob("*"))


def test_a_source_that_became_a_checkpoint_is_named(run, capsys):
    flags = ["--device", "cpu", "--checkpoint", "base.ckpt", "in/small.png"]
    assert run("--control", "canny", "--out", "out", flags=flags) == 1
    told = "got none; --checkpoint took base.ckpt, in/small.png: name the source before it, or a flag between them"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (KeyboardInterrupt(), "Stopped; the same command goes on where out was left."),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "error: cannot write results to out: No space left on device",
        ),
    ],
)
def test_a_run_that_ends_early_says_what_was_done_and_what_could_not_be(run, tmp_path, monkeypatch, capsys, stop, said):
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")

    def copy(source: Path, target: Path) -> None:
        if "tall" in target.name:
            raise stop
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr("cldm.jobs.shutil.copyfile", copy)
    assert run("in", "--control", "canny", "--out", "out", "steps=1", "--prompt", "") == 1
    told = capsys.readouterr()
    assert "in/broken.png: cannot read broken.png as an image" in told.err
    assert told.out == "out: 1 images made, 0 kept, problems: 1\n"
    assert said in told.err


def test_what_no_page_has_is_made_and_made_again(run, tmp_path, capsys):
    beyond = (
        "steps=101",
        "denoise=0.01",
        "init_image=in/tall.png",
        "scale=0.05",
        "strength=2.5",
        "weight=-3",
        "seed=2",
    )
    assert run("in/small.png", "--control", "canny", "--out", "out", *beyond, "images=13", "batch_size=6") == 0
    images = sorted((tmp_path / "out").iterdir())
    assert len(images) == 13
    settings = read_record(images[0]).settings
    assert (settings.steps, settings.scale, settings.strength, settings.batch_size) == (101, 0.05, 2.5, 6)
    assert run("--again", str(images[3]), str(images[12]), "--out", "again", flags=[]) == 0
    assert capsys.readouterr().out.count("the same bytes as") == 2


def test_what_has_nothing_to_make_it_again_from_is_said(run, tmp_path, capsys):
    assert run("--again", "in/small.png", "--out", "out", flags=[]) == 1
    assert capsys.readouterr().err.startswith("in/small.png has nothing in it about how it was made")
    assert not list((tmp_path / "out").glob("*"))


def test_a_map_alone_needs_its_controlnet(run, capsys):
    assert run("in", "--control", "none", "--out", "out", flags=[]) == 1
    assert "--control none needs --checkpoint, to say which ControlNet follows the map" in capsys.readouterr().err


def test_further_controls_have_their_values_and_another_name(run, tmp_path, model, capsys):
    command = ("in/small.png", "--control", "canny", "--out", "out", "steps=1", "seed=4", "end=1.0")
    also = ("--also", "canny", f"checkpoint={model[1]}", "weight=0.5", "canny_low_threshold=20")
    assert run(*command) == 0
    assert run(*command, *also) == 0
    assert run(*command, *also, "image=in/tall.png") == 0
    assert run(*command, *also) == 0
    assert "out: 0 images made, 1 kept, problems: 0" in capsys.readouterr().out
    records = [read_record(path).controls for path in (tmp_path / "out").iterdir()]
    assert sorted(len(controls) for controls in records) == [1, 2, 2]
    both = [controls for controls in records if len(controls) == 2]
    assert all(controls[1].options["canny_low_threshold"] == 20 for controls in both)
    assert both[0][1].png != both[1][1].png


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("sketch",), "control must be one of canny"),
        (("canny", "depth"), "--also takes one control and NAME=VALUE, got canny depth"),
        (("canny", "steps=3"), "canny has no steps as a further control"),
        (("none",), "--also none needs checkpoint=FILE"),
    ],
)
def test_mistakes_in_further_controls_are_one_line(run, capsys, words, complaint):
    assert run("in/small.png", "--control", "canny", "--out", "out", "--also", *words) == 1
    assert complaint in capsys.readouterr().err
