"""Jobs from images, folders and files of lines, and what a folder of results has of them."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from annotator.canny import CannyDetector
from annotator.hed import HEDdetector
from cldm.apps import Demo, Slider
from cldm.further import Further
from cldm.jobs import Job, OutputError, Problem, Report, jobs_from, names_of, run_jobs
from cldm.records import pixels_of, read_record
from cldm.runner import Machine, Runner
from cldm.starts import DENOISE

DEMO = Demo("Canny", "canny", CannyDetector, (Slider("Low", 1, 255, 100), Slider("High", 1, 255, 200)))
QUICK = {"steps": 1, "resolution": 64, "prompt": "a bird"}


@pytest.fixture(scope="module")
def runner(machine: Machine) -> Runner:
    return Runner(DEMO, machine)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, one of them in a folder, with a caption each."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    for name, side in (("a", 16), ("b/c", 30)):
        pixels[8 : 8 + side, 8:40] = (250, 120, 30)
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
        (tmp_path / "in" / f"{name}.txt").write_text(f"square {name}")
    return tmp_path / "in"


def made(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def run(source: Path, out: Path, runner: Runner, **values):
    jobs, problems = jobs_from(source, "canny", values, out)
    assert problems == []
    return run_jobs(jobs, out, lambda control: runner)


def write_lines(folder: Path, *lines: object) -> Path:
    file = folder / "jobs.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


def test_a_job_makes_what_the_app_makes(runner, folder, tmp_path):
    values = {**QUICK, "seed": 5, "images": 2, "low": 50}
    report = run(folder / "a.png", tmp_path / "out", runner, **values)
    assert (report.made, report.kept, report.problems) == (2, 0, [])
    by_app = runner.run({**asdict(runner.defaults()[0]), **values, "image": str(folder / "a.png")})
    assert list(made(tmp_path / "out").values()) == [path.read_bytes() for path in by_app.images]
    assert [name[:2] + name[-6:] for name in made(tmp_path / "out")] == ["a--0.png", "a--1.png"]


def test_a_folder_keeps_its_folders_and_every_image_its_caption(runner, folder, tmp_path):
    report = run(folder, tmp_path / "out", runner, steps=1, seed=1)
    assert report.made == 2
    records = [read_record(path) for path in sorted((tmp_path / "out").rglob("*.png"))]
    assert [record.prompt for record in records] == ["square a", "square b/c"]
    assert [path.parent.name for path in sorted((tmp_path / "out").rglob("*.png"))] == ["out", "b"]


def test_what_is_there_is_kept_and_the_rest_made_again_alike(runner, folder, tmp_path):
    values = {"steps": 1, "images": 2}  # of a seed that is picked
    run(folder, tmp_path / "out", runner, **values)
    first = made(tmp_path / "out")
    assert run(folder, tmp_path / "out", runner, **values).kept == 4
    lost = sorted(first)[1]
    (tmp_path / "out" / lost).unlink()
    report = run(folder, tmp_path / "out", runner, **values)
    assert (report.made, report.kept) == (1, 3)
    assert made(tmp_path / "out") == first


def test_an_interrupted_run_goes_on(runner, folder, tmp_path):
    def interrupted(job: Job | None, what: str) -> None:
        if job is not None and job.name == "b/c" and what.startswith("Step"):
            raise KeyboardInterrupt

    jobs, _ = jobs_from(folder, "canny", {"steps": 1, "seed": 3}, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, tmp_path / "out", lambda control: runner, interrupted)
    assert len(made(tmp_path / "out")) == 1
    report = run_jobs(jobs, tmp_path / "out", lambda control: runner)
    assert (report.made, report.kept) == (1, 1)
    run(folder, tmp_path / "whole", runner, steps=1, seed=3)
    assert made(tmp_path / "out") == made(tmp_path / "whole")


def test_another_wish_or_picture_has_another_name(runner, folder, tmp_path):
    for values in (QUICK, {**QUICK, "low": 50}, {**QUICK, "prompt": "a cat"}, {**QUICK, "is_map": True}):
        assert run(folder / "a.png", tmp_path / "out", runner, seed=1, **values).made == 1
    assert run(folder / "a.png", tmp_path / "out", runner, seed=1, **QUICK, low=100, scale=2.0).kept == 1
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    assert run(folder / "a.png", tmp_path / "out", runner, seed=1, **QUICK).made == 1


def test_what_cannot_be_done_is_listed_and_the_rest_done(runner, folder, tmp_path):
    (folder / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (3000, 10)).save(folder / "strip.png")
    jobs, problems = jobs_from(folder, "canny", {**QUICK, "resolution": 128}, tmp_path / "out")
    report = run_jobs(jobs, tmp_path / "out", lambda control: runner)
    assert problems == []
    assert report.made == 2
    assert [problem.source for problem in report.problems] == [str(folder / "broken.png"), str(folder / "strip.png")]
    assert str(report.problems[0]).startswith(f"{folder}/broken.png: cannot read broken.png as an image")
    assert "too long and narrow" in report.problems[1].reason


def test_images_without_a_prompt_are_listed(folder, tmp_path):
    (folder / "a.txt").unlink()
    jobs, problems = jobs_from(folder, "canny", {}, tmp_path)
    assert [job.values["prompt"] for job in jobs] == ["square b/c"]
    assert problems == [Problem(str(folder / "a.png"), "no caption, expected in a.txt; or give a prompt for all")]
    jobs, problems = jobs_from(folder, "canny", {"prompt": ""}, tmp_path)
    assert ([job.values["prompt"] for job in jobs], problems) == (["", ""], [])


def test_lines_have_names_of_their_own(folder, tmp_path):
    file = write_lines(
        folder,
        {"image": "a.png", "steps": 3},
        "",
        {"image": "b/c.png", "prompt": "a bird", "control": "hed", "name": "birds/1", "is_map": True},
    )
    jobs, problems = jobs_from(file, "canny", {"steps": 2, "eta": 0.5}, tmp_path)
    assert problems == []
    common = {"eta": 0.5}
    assert jobs == [
        Job(f"{file}, line 1", "a", "canny", {**common, "steps": 3, "image": f"{folder}/a.png", "prompt": "square a"}),
        Job(
            f"{file}, line 3",
            "birds/1",
            "hed",
            {**common, "steps": 2, "is_map": True, "image": f"{folder}/b/c.png", "prompt": "a bird"},
        ),
    ]


def test_a_line_repaints_a_part_of_an_image(runner, folder, tmp_path):
    start = Image.new("RGB", (32, 32), (30, 60, 90))
    start.save(folder / "start.png")
    Image.fromarray(np.repeat([[0, 255]], 32, axis=0).astype(np.uint8).repeat(16, axis=1)).save(folder / "mask.png")
    asked = {"image": "a.png", "init_image": "start.png", "mask": "mask.png", "denoise": 0.6, "steps": 2, "seed": 2}
    report = run(write_lines(folder, asked, {**asked, "init_image": "absent.png"}), tmp_path / "out", runner)
    assert report.made == 1
    assert "absent.png" in report.problems[0].reason
    (path,) = (tmp_path / "out").iterdir()
    pixels, record = np.asarray(Image.open(path)), read_record(path)
    assert (pixels[:, :32] == (30, 60, 90)).all()
    assert not (pixels[:, 32:] == (30, 60, 90)).all(axis=2).any()
    assert np.array_equal(pixels_of(record.init_image), np.asarray(start.resize((64, 64))))
    assert np.array_equal(pixels_of(record.mask)[0], [0] * 32 + [255] * 32)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "expected a JSON object, got something else: Expecting"),
        ("[" * 100_000, "expected a JSON object, got something else"),
        ("[1]", r'expected a JSON object such as {"image": "cat.png", "prompt": "a cat"}'),
        ({"prompt": "a bird"}, "expected a JSON object such as"),
        ({"image": "absent.png"}, "no caption, expected in absent.txt; or give a prompt for all"),
        ({"image": "a.png", "name": "../a"}, 'expected a "name" that is a relative path without "..", got \'../a\''),
        ({"image": "a.png", "name": "/a"}, 'expected a "name" that is a relative path'),
        ({"image": "a.png", "name": 3}, 'expected a "name" that is a relative path'),
        ({"image": "a.png", "control": 3}, 'expected a "control", here or for all'),
    ],
)
def test_malformed_lines_are_listed_by_number(folder, tmp_path, line, message):
    file = write_lines(folder, {"image": "a.png"}, line, {"image": "a.png"})
    jobs, (problem,) = jobs_from(file, "canny", {}, tmp_path)
    assert len(jobs) == 2
    assert problem.source == f"{file}, line 2"
    assert problem.reason.startswith(message)


def test_whole_numbers_may_be_written_with_a_point(runner, folder, tmp_path):
    asked = {"image": "a.png", **QUICK, "seed": 5, "images": 2}
    written = {**asked, "seed": 5.0, "images": 2.0, "steps": 1.0}
    report = run(write_lines(folder, written), tmp_path / "out", runner)
    assert (report.made, report.problems) == (2, [])
    assert run(write_lines(folder, asked), tmp_path / "out", runner).kept == 2


def test_an_image_to_start_from_is_denoised_like_the_apps_unless_it_is_said(runner, folder, tmp_path):
    Image.new("L", (64, 64), 255).save(folder / "mask.png")
    start = {"image": "a.png", **QUICK, "steps": 4, "init_image": "b/c.png"}
    asked = [start, {**start, "denoise": 0.5}, {**start, "mask": "mask.png"}, {"image": "a.png", **QUICK}]
    lines = [{**line, "name": str(number)} for number, line in enumerate(asked)]
    report = run(write_lines(folder, *lines), tmp_path / "out", runner, seed=1)
    assert (report.made, report.problems) == (4, [])
    found = [read_record(path).settings.denoise for path in sorted((tmp_path / "out").iterdir())]
    assert found == [DENOISE, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("lack", [torch.OutOfMemoryError("9 GB"), RuntimeError("can't allocate memory"), MemoryError()])
def test_a_job_too_large_for_the_memory_is_listed_and_the_rest_done(runner, folder, tmp_path, monkeypatch, lack):
    works = runner.run

    def large(values, tell):
        if values["prompt"] == "square a":
            raise lack
        return works(values, tell)

    monkeypatch.setattr(runner, "run", large)
    report = run(folder, tmp_path / "out", runner, steps=1)
    assert report.made == 1
    reason = "out of memory: draw fewer images at once (batch_size=1), or ask for a lower resolution"
    assert report.problems == [Problem(str(folder / "a.png"), reason)]


def test_what_is_no_lack_of_memory_is_not_hidden(runner, folder, tmp_path, monkeypatch):
    def broken(values, tell):
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(runner, "run", broken)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        run(folder, tmp_path / "out", runner, steps=1)


def test_results_are_not_put_among_the_images(folder):
    for out in (folder, folder / "b" / ".."):
        with pytest.raises(ValueError, match=f"images and results would be in the same folder, {out}"):
            jobs_from(folder, "canny", QUICK, out)
    assert len(jobs_from(folder, "canny", QUICK, folder / "out")[0]) == 2


def test_results_of_other_weights_are_made_anew_and_those_of_moved_ones_kept(machine, folder, tmp_path):
    weights = load_file(machine.checkpoints[0])
    files = {name: tmp_path / name / "diffusion_pytorch_model.safetensors" for name in ("one", "two", "copy of two")}
    for name, file in files.items():
        file.parent.mkdir()
        save_file({**weights, "logvar": weights["logvar"] + (name == "one")}, file)  # of one size

    def made(name: str) -> tuple[int, int]:
        own, beside = str(files[name].parent), [Further(DEMO, str(files[name].parent))]
        runners = Runner(DEMO, replace(machine, checkpoints=(own,))), Runner(DEMO, machine, beside)
        return tuple(run(folder / "a.png", tmp_path / "out", r, **QUICK, seed=1).made for r in runners)

    assert [made(name) for name in files] == [(1, 1), (1, 1), (0, 0)]
    shutil.copyfile(files["one"], files["two"])  # another state of one training
    os.utime(files["two"], ns=(1, 1))
    assert made("two") == (0, 0)
    save_file({**weights, "logvar": weights["logvar"] + 2}, files["two"])
    assert made("two") == (1, 1)


def test_how_many_are_drawn_at_once_is_no_other_wish(runner, folder, tmp_path):
    values = {**QUICK, "seed": 1, "images": 3}
    assert run(folder / "a.png", tmp_path / "out", runner, **values, batch_size=2).made == 3
    records = [read_record(path) for path in sorted((tmp_path / "out").iterdir())]
    assert [record.settings.batch_size for record in records] == [2, 2, 2]
    assert run(folder / "a.png", tmp_path / "out", runner, **values).kept == 3


def test_a_folder_that_takes_no_results_ends_the_run_before_the_first_job(runner, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run", lambda *_: pytest.fail("computed"))
    (tmp_path / "results.png").touch()

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(OutputError, match=r"cannot write results to .*results\.png: .*; make room or give another"):
        run(folder, tmp_path / "results.png", runner)
    monkeypatch.setattr("cldm.jobs.tempfile.TemporaryFile", read_only)
    with pytest.raises(OutputError, match=r"cannot write results to .*out: Read-only file system"):
        run(folder, tmp_path / "out", runner)


def test_a_full_disk_ends_the_run_and_what_was_made_is_kept(runner, folder, tmp_path, monkeypatch):
    copied = []

    def copy(source: Path, target: Path) -> None:
        if copied:
            raise OSError(errno.ENOSPC, "No space left on device")
        copied.append(target.write_bytes(source.read_bytes()))

    monkeypatch.setattr("cldm.jobs.shutil.copyfile", copy)
    report = Report()
    jobs, _ = jobs_from(folder, "canny", {"steps": 1, "images": 2}, tmp_path / "out")
    with pytest.raises(OutputError, match=r"No space left on device; .*What was made is kept"):
        run_jobs(jobs, tmp_path / "out", lambda control: runner, report=report)
    assert (report.made, report.problems, len(made(tmp_path / "out"))) == (1, [], 1)
    monkeypatch.undo()
    report = run_jobs(jobs, tmp_path / "out", lambda control: runner)
    assert (report.made, report.kept) == (3, 1)


def test_a_result_that_cannot_be_written_by_its_name_is_listed(runner, folder, tmp_path):
    file = write_lines(folder, {"image": "a.png", **QUICK, "name": "x" * 300}, {"image": "a.png", **QUICK})
    report = run(file, tmp_path / "out", runner)
    assert report.made == 1
    assert "too long" in report.problems[0].reason


def test_results_of_averaged_outputs_have_names_of_their_own(machine, folder, tmp_path):
    file = Path(shutil.copy(machine.checkpoints[0], tmp_path / "control.safetensors"))
    made = []
    for told in ("{}", "{model: {params: {control_stage_config: {}, global_average_pooling: true}}}"):
        file.with_suffix(".yaml").write_text(told)
        for runner in (
            Runner(DEMO, replace(machine, checkpoints=(str(file),))),
            Runner(DEMO, machine, [Further(DEMO, str(file))]),
        ):
            made.append(run(folder / "a.png", tmp_path / "out", runner, **QUICK, seed=1).made)
    assert made == [1, 1, 1, 1]


def test_impossible_values_of_a_line_are_listed(runner, folder, tmp_path):
    wrong = [
        {"steps": 0},
        {"steps": "many"},
        {"warmth": 3},
        {"images": 10**9},
        {"prompt": None},
        {"image": "absent.png"},
        {"seed": 10**400},
    ]
    file = write_lines(folder, *({"image": "a.png", **QUICK, **values} for values in wrong))
    jobs, _ = jobs_from(file, "canny", {}, tmp_path / "out")
    report = run_jobs(jobs, tmp_path / "out", lambda control: runner)
    reasons = [problem.reason for problem in report.problems]
    assert report.made == 0
    assert [problem.source for problem in report.problems] == [f"{file}, line {i}" for i in range(1, 8)]
    assert reasons[0] == "steps must be a whole number from 1 to 100, got 0"
    assert reasons[1] == "steps must be a whole number from 1 to 100, got 'many'"
    assert reasons[2].startswith("canny has no setting warmth; it has added_prompt, ")
    assert reasons[3] == "images must be a whole number from 1 to 12, got 1000000000"
    assert reasons[4] == "prompt must be a text, got None"
    assert "absent.png" in reasons[5]
    assert reasons[6].startswith("seed must be a whole number from -1 to 4294967295, got 1000")


def test_results_of_another_detectors_weights_have_another_name(machine, folder, tmp_path):
    demo = Demo("HED", "hed", lambda checkpoint, device: CannyDetector(), DEMO.options, weights="hed")
    for name in ("a", "b"):
        (tmp_path / f"{name}.pth").write_text(name)
        runner = Runner(demo, replace(machine, detector=str(tmp_path / f"{name}.pth")))
        assert run(folder / "a.png", tmp_path / "out", runner, seed=1, **QUICK).made == 1
        assert run(folder / "a.png", tmp_path / "out", runner, seed=1, **QUICK).kept == 1
    assert run(folder / "a.png", tmp_path / "out", runner, seed=1, **QUICK, is_map=True).made == 1
    assert run(folder / "a.png", tmp_path / "out", Runner(demo, machine), seed=1, **QUICK, is_map=True).kept == 1


def test_a_missing_detector_or_app_is_said_once(machine, folder, tmp_path):
    hed = Runner(Demo("HED", "hed", HEDdetector, weights="hed", detect_at=128), machine)
    assert "detect_resolution" in names_of(hed)
    lines = [{"image": "a.png", **QUICK, "control": control} for control in ("hed", "hed", "fog")]
    file = write_lines(folder, *lines, {"image": "a.png", **QUICK, "control": "hed", "is_map": True})

    def runner_of(control: str) -> Runner:
        if control == "fog":
            raise ValueError("control must be hed, got 'fog'")
        return hed

    over: list[None] = []
    jobs, _ = jobs_from(file, None, {}, tmp_path / "out")
    report = run_jobs(jobs, tmp_path / "out", runner_of, lambda job, what: over.append(None) if job is None else None)
    assert report.made == 1
    assert [problem.source for problem in report.problems] == ["1 job of fog", "2 jobs of hed"]
    assert "run `python tool_download.py hed`" in report.problems[1].reason
    assert len(over) == 4


def test_sources_that_are_none_are_refused(folder, tmp_path):
    (folder / "empty.jsonl").write_text("\n\n")
    for source, message in (
        (folder / "absent", "no file or folder at .*absent; give an image, a folder of images or a .jsonl of jobs"),
        (folder / "absent.jsonl", "no file of jobs at .*absent.jsonl"),
        (folder / "empty.jsonl", "no jobs in .*empty.jsonl; expected is one JSON object a line"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            jobs_from(source, "canny", {}, tmp_path)
    with pytest.raises(ValueError, match=r"expected an image \(.png, .*\), a folder or a .jsonl, got .*a.txt"):
        jobs_from(folder / "a.txt", "canny", {}, tmp_path)
    with pytest.raises(ValueError, match="expected the name of a control"):
        jobs_from(folder, None, {}, tmp_path)


@pytest.fixture(autouse=True, scope="module")
def _no_detectors() -> Iterator[None]:
    """As on a machine where nothing is downloaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("annotator.util.CHECKPOINT_FOLDER", Path("/nowhere"))
        yield
