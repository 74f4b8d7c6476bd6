"""Images made again from their records alone."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import tiny
from annotator.canny import CannyDetector
from cldm.again import Again, Source, generate_again
from cldm.apps import Demo
from cldm.controls import Control
from cldm.pipeline import LoadedModel, generate
from cldm.records import ControlMap, FileHashes, Record, png_of, read_record, save_png
from cldm.runner import Machine, Runner
from cldm.settings import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.write_model(folder)
    return folder


@pytest.fixture(scope="module")
def saved(folder: Path) -> list[Path]:
    """Two images of an app."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[20:50, 10:40] = (250, 120, 30)
    Image.fromarray(pixels).save(folder / "picture.png")
    machine = Machine((str(folder / "control_tiny_canny.safetensors"),), str(folder / "tiny.yaml"), "cpu")
    values = {"image": folder / "picture.png", "prompt": "a bird", "steps": 2, "seed": 8, "images": 2}
    runner = Runner(Demo("Canny", "canny", CannyDetector), machine)  # its files go when it goes
    pictures = runner.run({**values, "sampler": "dpm++"})
    return [path.rename(folder / path.name) for path in pictures.images]


@pytest.fixture
def hashes(tmp_path: Path) -> FileHashes:
    """That have seen nothing yet."""
    return FileHashes(tmp_path / "hashes.json")


@pytest.fixture
def again(folder: Path, hashes: FileHashes) -> Again:
    return Again(Source(folder=folder), hashes)


def test_an_apps_images_are_made_again_to_the_byte(saved, again, tmp_path):
    steps = []
    for path in reversed(saved):
        made = again.make(read_record(path), lambda done, total, z: steps.append(done))
        assert made.changes == []
        assert save_png(tmp_path / path.name, made.image, made.record).read_bytes() == path.read_bytes()
    assert steps == [1, 2]  # the batch was made once


def test_of_images_drawn_in_batches_only_one_batch_is_made_again(folder, again, tmp_path):
    machine = Machine((str(folder / "control_tiny_canny.safetensors"),), str(folder / "tiny.yaml"), "cpu")
    Image.fromarray(noise(64, 64, 3)).save(tmp_path / "picture.png")
    runner = Runner(Demo("Canny", "canny", CannyDetector), machine)
    pictures = runner.run({"image": tmp_path / "picture.png", "steps": 1, "seed": 8, "images": 5, "batch_size": 2})
    steps = []
    for number in (3, 2, 4):
        record = read_record(pictures.images[number])
        made = again.make(record, lambda done, total, z: steps.append((done, total, len(z))))
        path = save_png(tmp_path / f"{number}.png", made.image, made.record)
        assert path.read_bytes() == pictures.images[number].read_bytes()
    assert steps == [(1, 1, 2), (1, 1, 1)]


def test_threads_are_those_of_the_first_time(saved, again):
    before = torch.get_num_threads()
    record = read_record(saved[0])
    try:
        again.make(replace(record, runtime=replace(record.runtime, threads=1)))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_what_is_not_as_it_was_is_said(saved, again):
    record = read_record(saved[0])
    versions = {**record.runtime.versions, "torch": "1.0", "gone": "2"}
    then = replace(record.runtime, device="cuda:99", precision="float32", threads=4096, versions=versions)
    made = again.make(replace(record, runtime=then))
    first, *changes = made.changes
    assert first.startswith("the image's device is not here: ")
    here = made.record.runtime
    assert changes == [
        f"device: cuda:99 then, {here.device} now",
        f"threads: 4096 then, {here.threads} now",
        "gone: 2 then, none now",
        f"torch: 1.0 then, {here.versions['torch']} now",
    ]


def test_files_are_found_by_their_content(folder, saved, hashes, tmp_path):
    for number, file in enumerate((folder / "tiny.yaml", folder / "control_tiny_canny.safetensors")):
        shutil.copy(file, tmp_path / f"renamed-{number}{file.suffix}")
    made = Again(Source(folder=tmp_path), hashes).make(read_record(saved[0]))
    assert np.array_equal(made.image, np.asarray(Image.open(saved[0])))
    assert [file.name for file in made.record.weights] == ["renamed-1.safetensors"]
    assert made.changes == []


def test_a_file_that_is_not_here_is_named(saved, hashes, tmp_path):
    message = r"no file here has the content of tiny.yaml \(\d+ bytes, SHA-256 [0-9a-f]{12}\.\.\.\).*with --config"
    with pytest.raises(FileNotFoundError, match=message):
        Again(Source(folder=tmp_path), hashes).make(read_record(saved[0]))


def test_another_file_of_the_name_is_not_taken_unless_it_is_given(folder, saved, hashes, tmp_path):
    other = tmp_path / "control_tiny_canny.safetensors"
    model = tiny.control_ldm(cond_stage_config=tiny.CLIP)
    torch.nn.init.zeros_(model.model.diffusion_model.out[-1].weight)
    torch.save(model.state_dict(), other)
    shutil.copy(folder / "tiny.yaml", tmp_path)
    record = read_record(saved[0])
    with pytest.raises(
        FileNotFoundError, match=rf"{other} is another file of that name.*name another with --checkpoint"
    ):
        Again(Source(folder=tmp_path), hashes).make(record)
    made = Again(Source(checkpoints=(other,), folder=tmp_path), hashes).make(record)
    (change,) = made.changes
    assert change.startswith(f"{other.name} (SHA-256 {made.record.weights[0].sha256[:12]}...) is not {other.name} (")
    assert not np.array_equal(made.image, np.asarray(Image.open(saved[0])))


def test_a_folder_stands_for_the_weights_in_it(folder, saved, hashes, tmp_path):
    shutil.copy(folder / "control_tiny_canny.safetensors", tmp_path / "diffusion_pytorch_model.safetensors")
    made = Again(Source(checkpoints=(tmp_path,), folder=folder), hashes).make(read_record(saved[0]))
    assert made.changes == []
    assert [file.name for file in made.record.weights] == ["diffusion_pytorch_model.safetensors"]
    assert np.array_equal(made.image, np.asarray(Image.open(saved[0])))


def test_averaged_outputs_are_averaged_again_though_the_yaml_beside_the_file_is_gone(folder, saved, hashes, tmp_path):
    shutil.copy(folder / "control_tiny_canny.safetensors", tmp_path / "shuffle.safetensors")
    told = OmegaConf.load(folder / "tiny.yaml")
    told.model.params.global_average_pooling = True
    OmegaConf.save(told, tmp_path / "shuffle.yaml")
    machine = Machine((str(tmp_path / "shuffle.safetensors"),), str(folder / "tiny.yaml"), "cpu")
    runner = Runner(Demo("Canny", "canny", CannyDetector), machine)
    values = {"image": folder / "picture.png", "prompt": "a bird", "steps": 2, "seed": 8}
    (path,) = runner.run(values).images
    record = read_record(path)
    assert record.pooled == (0,)
    (tmp_path / "shuffle.yaml").unlink()
    again = Again(Source(folder=folder), hashes)
    assert np.array_equal(again.make(record).image, np.asarray(Image.open(path)))
    plain = again.make(replace(record, pooled=())).image
    assert not np.array_equal(plain, np.asarray(Image.open(path)))


def test_the_machines_flags_are_the_records_unless_the_source_has_others(folder, saved, hashes):
    record = read_record(saved[0])
    made = Again(Source(folder=folder, save_memory=True), hashes).make(record)
    assert made.changes == ["save_memory: False then, True now"]
    assert made.record.runtime.flags == {"save_memory": True, "compile": False}
    assert np.abs(made.image.astype(int) - np.asarray(Image.open(saved[0])).astype(int)).max() <= 1
    again = Again(Source(folder=folder), hashes)
    assert again.make(made.record).record.runtime.flags == made.record.runtime.flags
    back = Again(Source(folder=folder, save_memory=False), hashes).make(made.record)
    assert back.changes == ["save_memory: True then, False now"]
    assert np.array_equal(back.image, np.asarray(Image.open(saved[0])))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"checkpoints": (Path("a"), Path("b"))}, r"made with 1 files \(control_tiny_canny.safetensors\), given are 2"),
        ({"checkpoints": (Path("absent.ckpt"),)}, "no file at absent.ckpt"),
        ({"config": Path("absent.yaml")}, "no file at absent.yaml"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_impossible_sources_are_refused(folder, saved, hashes, source, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Again(Source(folder=folder, **source), hashes).make(read_record(saved[0]))


def with_share(record: Record, **share: object) -> Record:
    return replace(record, controls=(replace(record.controls[0], share=share),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, weights=()), "does not say which weights"),
        (lambda r: replace(r, seed=3), "expected the image 0 of a batch to have the seed 8, its record says 3"),
        (
            lambda r: replace(r, controls=(replace(r.controls[0], share={"colour": 1}),)),
            "a control has colour, unknown",
        ),
        (
            lambda r: replace(r, controls=(replace(r.controls[0], share={"weight": 9000}),)),
            "weight must be a number from -1000",
        ),
    ],
)
def test_impossible_records_are_refused(saved, again, change, message):
    with pytest.raises(ValueError, match=message):
        again.make(change(read_record(saved[0])))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    ldm = tiny.control_ldm(cond_stage_config=tiny.CLIP)
    return LoadedModel(ldm, (ldm.control_model, ldm.control_model), torch.device("cpu"))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("kind", ["several", "inpainting", "no control"])
def test_several_controls_start_images_and_masks_are_used_again(model, tmp_path, kind):
    settings = Settings(steps=4, seed=1, denoise=0.5 if kind == "inpainting" else 1.0)
    maps, share = (noise(64, 128, 3), 255 - noise(64, 128, 3)), {"weight": 0.5, "end": 0.5}
    start, mask, size = None, None, None
    controls = [Control(maps[0]), Control(maps[1], **share)][: 2 if kind == "several" else 1]
    if kind == "inpainting":
        start, mask = noise(64, 128, 3) // 2, np.eye(64, 128, dtype=np.uint8) * 255
    elif kind == "no control":
        controls, size = [], (64, 192)
    (image,) = generate(model, controls, "a bird", settings, image=start, mask=mask, size=size).images
    record = Record(
        "a bird",
        settings,
        seed=1,
        controls=tuple(
            ControlMap("canny", png_of(control.map), share={"weight": control.weight, "end": control.end})
            for control in controls
        ),
        size=size,
        init_image=None if start is None else png_of(start),
        mask=None if mask is None else png_of(mask),
    )
    read = read_record(save_png(tmp_path / "image.png", image, record))
    (made,) = generate_again(model, read)
    assert np.array_equal(made, image)
    plain = generate(model, maps[0], "a bird", replace(settings, denoise=1.0)).images[0]
    assert image.shape != plain.shape or not np.array_equal(image, plain), "what the record adds has no effect"
