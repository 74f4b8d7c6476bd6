"""Controls beside an app's own, from the runner to a record and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from annotator.canny import CannyDetector
from annotator.hed import HEDdetector
from cldm.again import Again, Source
from cldm.apps import Demo, Slider
from cldm.further import Further, places
from cldm.model_files import ModelFiles
from cldm.pipeline import Control, Settings, generate, load
from cldm.records import FileHashes, pixels_of, read_record
from cldm.runner import Machine, Runner
from cldm.weights.bundles import save_diffusers_folder
from cldm.weights.converting import to_diffusers
from cldm.weights.reading import read_weights

DEMO = Demo("Canny", "canny", CannyDetector, (Slider("Low", 1, 255, 100), Slider("High", 1, 255, 200)))
SETTINGS = {"prompt": "a bird", "steps": 4, "seed": 5, "resolution": 64}


@pytest.fixture(scope="module")
def other(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another ControlNet for the same base, alone in a file."""
    own = {n: t for n, t in read_weights(machine.checkpoints[0]).items() if n.startswith("control_model.")}
    noise = torch.Generator().manual_seed(1)
    file = tmp_path_factory.mktemp("other") / "control_other.safetensors"
    save_file({n: t + 0.05 * torch.randn(t.shape, generator=noise) for n, t in own.items()}, file)
    return file


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = np.zeros((64, 128, 3), np.uint8)
    image[16:48, 40:90] = (250, 120, 30)
    return saved(tmp_path / "picture.png", image)


def saved(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_the_image_is_what_the_pipeline_makes_of_both_and_is_made_again(machine, other, picture, tmp_path):
    strokes = np.zeros((64, 128, 3), np.uint8)
    strokes[::9] = 255
    own = saved(tmp_path / "strokes.png", strokes)
    values = {"image": str(own), "is_map": True, "weight": 0.5, "end": 0.75}
    runner = Runner(DEMO, machine, [Further(DEMO, str(other), values=values)])
    (path,) = runner.run({**SETTINGS, "image": picture, "weight": 1.5, "start": 0.25}).images

    record = read_record(path)
    assert [control.share for control in record.controls] == [
        {"weight": 1.5, "start": 0.25},
        {"weight": 0.5, "end": 0.75},
    ]
    assert [control.is_map for control in record.controls] == [False, True]
    hashes = FileHashes()
    assert record.weights == (hashes.of(Path(machine.checkpoints[0])),)
    assert record.control_weights == (hashes.of(other),)
    edges, second = (pixels_of(control.png) for control in record.controls)
    assert np.array_equal(second, strokes)

    model = load(ModelFiles(Path(machine.config), (Path(machine.checkpoints[0]),)), "cpu", controls=[other])
    controls = [Control(edges, 1.5, 0.25), Control(strokes, 0.5, end=0.75)]
    settings = Settings(steps=4, seed=5)
    image = np.asarray(Image.open(path))
    assert np.array_equal(image, generate(model, controls, "a bird", settings).images[0])
    assert not np.array_equal(image, generate(model, controls[:1], "a bird", settings).images[0])
    made = Again(Source(folder=other.parent), hashes).make(record)
    assert np.array_equal(made.image, image)
    assert made.changes == []


@pytest.fixture(scope="module")
def folder(other: Path) -> Path:
    """The other ControlNet in diffusers' layout."""
    path = other.parent / "diffusers"
    save_diffusers_folder(to_diffusers(read_weights(other)), {}, path)
    return path


def test_a_diffusers_folder_makes_what_its_file_makes_and_is_made_again(machine, other, folder, picture):
    images = {}
    for checkpoint in (other, folder):
        runner = Runner(DEMO, machine, [Further(DEMO, str(checkpoint))])
        (path,) = runner.run({**SETTINGS, "image": picture}).images
        images[checkpoint] = np.asarray(Image.open(path))
        record = read_record(path)
    assert np.array_equal(images[other], images[folder])
    hashes = FileHashes()
    assert record.control_weights == (hashes.of(folder / "diffusion_pytorch_model.safetensors"),)
    made = Again(Source(folder=folder), hashes).make(record)
    assert np.array_equal(made.image, images[folder])


def test_a_base_and_a_diffusers_folder_are_a_model(machine, other, folder, picture, tmp_path):
    base = tmp_path / "base.safetensors"
    weights = read_weights(machine.checkpoints[0])
    save_file({n: t.contiguous() for n, t in weights.items() if not n.startswith("control_model.")}, base)
    images = []
    for control in (other, folder):
        runner = Runner(DEMO, Machine((str(base), str(control)), machine.config, "cpu"))
        images.append(np.asarray(Image.open(runner.run({**SETTINGS, "image": picture}).images[0])))
    assert np.array_equal(*images)


def test_by_default_its_map_is_of_the_jobs_image_by_its_own_options(machine, other, picture):
    runner = Runner(DEMO, machine, [Further(DEMO, str(other), values={"low": 10})])
    record = read_record(runner.run({**SETTINGS, "image": picture}).images[0])
    assert [control.options["low"] for control in record.controls] == [100, 10]
    assert [control.share for control in record.controls] == [{}, {}]


def test_a_controlnet_is_loaded_once(tmp_path):
    files = [tmp_path / name for name in ("base", "own", "second", "third")]
    for file in files:
        file.touch()
    base, own, second, third = files
    further = [Further(DEMO, str(file)) for file in (third, own, second, third)]
    assert places(ModelFiles(base, (base, own)), further) == ([third, second], [1, 0, 2, 1])


def test_a_folder_and_the_file_in_it_are_one_controlnet(folder):
    further = [Further(DEMO, str(folder)), Further(DEMO, str(folder / "diffusion_pytorch_model.safetensors"))]
    file = folder / "diffusion_pytorch_model.safetensors"
    assert places(ModelFiles(folder, (folder,)), further) == ([file], [1, 1])


def test_two_maps_for_one_controlnet_are_made_again_too(machine, picture):
    runner = Runner(DEMO, machine, [Further(DEMO, machine.checkpoints[0], values={"weight": 0.5})])
    path = runner.run({**SETTINGS, "image": picture}).images[0]
    record = read_record(path)
    assert [control.share for control in record.controls] == [{}, {"weight": 0.5, "model": 0}]
    folder = Path(machine.checkpoints[0]).parent
    assert np.array_equal(Again(Source(folder=folder)).make(record).image, np.asarray(Image.open(path)))


def test_maps_of_other_shapes_are_refused(machine, other, picture, tmp_path):
    square = saved(tmp_path / "square.png", np.full((64, 64, 3), 255, np.uint8))
    runner = Runner(DEMO, machine, [Further(DEMO, str(other), values={"image": str(square), "is_map": True})])
    with pytest.raises(ValueError, match=r"of one size, got control_map 0 \(64, 128\), control_map 1 \(64, 64\)"):
        runner.run({**SETTINGS, "image": picture})


def test_a_model_without_a_controlnet_of_its_own_is_refused(machine, other, picture, tmp_path):
    weights = read_weights(machine.checkpoints[0])
    base = tmp_path / "base.safetensors"
    save_file({n: t.contiguous() for n, t in weights.items() if not n.startswith("control_model.")}, base)
    runner = Runner(DEMO, Machine((str(base),), machine.config, "cpu"), [Further(DEMO, str(other))])
    with pytest.raises(ValueError, match=r"base\.safetensors has no ControlNet for canny, beside which"):
        runner.run({**SETTINGS, "image": picture})


def test_what_is_missing_or_unknown_is_said_before_the_work(tmp_path):
    with pytest.raises(ValueError, match=r"canny has no steps as a further control; it has end, high, image, is_map"):
        Further(DEMO, values={"steps": 3})
    with pytest.raises(FileNotFoundError, match="give the path of an existing ControlNet"):
        Further(DEMO, str(tmp_path / "absent.pth")).file()
    with pytest.raises(FileNotFoundError, match="no file of weights in the folder"):
        Further(DEMO, str(tmp_path)).file()
    with pytest.raises(ValueError, match=r"canny has no detector with weights, got 'hed\.pth'; leave it out"):
        Further(DEMO, detector="hed.pth")
    hed = Demo("HED", "hed", HEDdetector, weights="hed")
    by_detector = Further(hed, detector=str(tmp_path))
    assert "python tool_download.py hed" in Runner(DEMO, further=[by_detector]).missing_beside()
    by_map = Further(hed, detector=str(tmp_path), values={"is_map": True})
    assert Runner(DEMO, further=[by_map]).missing_beside() == ""


def test_detectors_are_told_to_save_memory(monkeypatch):
    told = []
    monkeypatch.setattr("cldm.runner.MapMaker", lambda demo, *machine: told.append(machine))
    monkeypatch.setattr("cldm.further.MapMaker", lambda demo, *machine: told.append(machine))
    Runner(DEMO, Machine(device="cpu", save_memory=True), [Further(DEMO)])
    assert told == [("cpu", None, True)] * 2
