"""The dataset maker: format, the same bytes however it is made, interruptions, and what it refuses to touch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cldm.fill50k import Recipe, make_fill50k, scene
from cldm.shapes import COLOURS, held_out

ROOT = Path(__file__).parents[2]
COUNT = 70  # two chunks, so that several processes have work


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def rows(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "prompt.json").read_text().splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "fill50k"
    assert make_fill50k(folder, COUNT, 64, workers=1) == folder / "prompt.json"
    return folder


def test_format_is_the_published_one(made):
    first = (made / "prompt.json").read_text().splitlines()[0]
    prompt = scene(Recipe(COUNT, 64), 0).prompt
    assert first == f'{{"source": "source/0.png", "target": "target/0.png", "prompt": "{prompt}"}}'
    assert len(rows(made)) == COUNT
    for name in ("source", "target"):
        assert {file.name for file in (made / name).iterdir()} == {f"{k}.png" for k in range(COUNT)}
        with Image.open(made / name / "7.png") as image:
            assert (image.mode, image.size, image.format) == ("RGB", (64, 64), "PNG")


def test_pictures_are_what_their_prompt_says(made):
    for row in rows(made)[:20]:
        colour, _, background = row["prompt"].partition(" circle with ")
        colours = COLOURS[colour], COLOURS[background.removesuffix(" background")]
        source, target = (np.asarray(Image.open(made / row[name])) for name in ("source", "target"))
        assert set(np.unique(source)) == {0, 255}
        assert tuple(target[0, 0]) == colours[1]
        ys, xs = np.nonzero(source[..., 0])
        centre = (ys.min() + ys.max()) // 2, (xs.min() + xs.max()) // 2
        assert tuple(target[centre]) == colours[0]


def test_several_processes_make_the_same_bytes(made, tmp_path):
    make_fill50k(tmp_path / "fill50k", COUNT, 64, workers=2)
    assert content(tmp_path / "fill50k") == content(made)


def test_interrupted_run_goes_on_to_the_same_bytes(made, tmp_path):
    folder = tmp_path / "fill50k"
    make_fill50k(folder, COUNT, 64, workers=1)
    (folder / "prompt.json").unlink()
    (folder / "source/3.png").unlink()
    (folder / "target/4.png").rename(folder / "target/4.tmp")  # killed before it had its name
    (folder / "target/5.png").write_bytes(b"")  # the machine crashed
    kept = (folder / "source/9.png").stat().st_mtime_ns
    make_fill50k(folder, COUNT, 64, workers=1)
    assert content(folder) == content(made)
    assert (folder / "source/9.png").stat().st_mtime_ns == kept


def test_killed_run_leaves_no_half_file(made, tmp_path):
    folder = tmp_path / "fill50k"
    command = [sys.executable, ROOT / "tool_make_fill50k.py", "--size", "64", "--workers", "2", "--output", folder]
    process = subprocess.Popen([*command, "--count", "5000"], stderr=subprocess.DEVNULL)
    while not len(list(folder.glob("target/*.png"))) > 20:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "prompt.json").exists()
    for file in folder.glob("*/*.png"):
        if int(file.stem) < COUNT:
            assert file.read_bytes() == (made / file.relative_to(folder)).read_bytes()


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from cldm.fill50k import _prepare_worker\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, mp_context=get_context('spawn'), initializer=_prepare_worker)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    worker = int(parent.stdout.readline())
    parent.kill()
    try:
        parent.communicate(timeout=60)  # returns when the worker, too, has closed the pipe
    except subprocess.TimeoutExpired:
        os.kill(worker, signal.SIGKILL)
        raise


def test_item_depends_on_seed_and_number_alone():
    assert scene(Recipe(count=10), 7) == scene(Recipe(count=50_000, size=128), 7)
    assert scene(Recipe(seed=1), 7) != scene(Recipe(seed=0), 7)
    assert scene(Recipe(), 8) != scene(Recipe(), 7)


def test_held_out_prompts_are_left_out_unless_asked_for(tmp_path):
    assert not any(held_out(scene(Recipe(), k).prompt) for k in range(300))
    everything = [held_out(scene(Recipe(exclude_held_out=False), k).prompt) for k in range(300)]
    assert 5 < sum(everything) < 40
    make_fill50k(tmp_path / "all", 64, 64, workers=1, exclude_held_out=False)
    assert any(held_out(row["prompt"]) for row in rows(tmp_path / "all"))


def test_finished_dataset_is_left_as_it_is(made):
    before = {file: file.stat().st_mtime_ns for file in made.rglob("*")}
    make_fill50k(made, COUNT, 64, workers=1)
    assert {file: file.stat().st_mtime_ns for file in made.rglob("*")} == before


@pytest.mark.parametrize("changed", [{"count": 71}, {"size": 128}, {"seed": 1}, {"exclude_held_out": False}])
def test_other_settings_are_not_mixed_in(made, changed):
    before = content(made)
    with pytest.raises(ValueError, match=r"begun with other settings.*another folder"):
        make_fill50k(made, **{"count": COUNT, "size": 64, "workers": 1} | changed)
    assert content(made) == before


def test_published_dataset_is_not_touched(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "prompt.json").write_text("{}\n")
    with pytest.raises(ValueError, match=r"not made here \(prompt.json, source\)"):
        make_fill50k(tmp_path, 1, 64)
    assert (tmp_path / "prompt.json").read_text() == "{}\n"


def test_edited_prompts_are_not_overwritten(tmp_path):
    make_fill50k(tmp_path, 2, 64, workers=1)
    (tmp_path / "prompt.json").write_text("mine\n")
    with pytest.raises(ValueError, match="move it away"):
        make_fill50k(tmp_path, 2, 64, workers=1)
    assert (tmp_path / "prompt.json").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"size": 100}, "size must be a multiple of 64 from 64 to 2048, got 100"),
        ({"size": 0}, "size must be"),
        ({"size": 4096}, "size must be"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_made(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        make_fill50k(tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


def test_tool_says_what_it_made_and_errors_are_one_message(tmp_path):
    command = [sys.executable, ROOT / "tool_make_fill50k.py", "--count", "3", "--output", tmp_path / "new"]
    good = subprocess.run([*command, "--size", "64"], capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    assert f"{tmp_path / 'new' / 'prompt.json'}: 3 rows" in good.stdout
    assert "3/3" in good.stderr  # the progress bar
    bad = subprocess.run([*command, "--size", "65"], capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert bad.stderr == "error: size must be a multiple of 64 from 64 to 2048, got 65\n"
