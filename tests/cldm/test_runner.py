"""What an app does when Run is pressed."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

import tiny
from annotator.canny import CannyDetector
from annotator.hed import HEDdetector
from cldm import model_files, pipeline
from cldm.apps import Demo, Slider, invert, thicken_and_invert
from cldm.further import Further
from cldm.pipeline import Settings, generate
from cldm.records import FileHashes, pixels_of, read_record
from cldm.runner import Machine, Runner, Update, read_upload

DEMO = Demo("Canny", "canny", CannyDetector, (Slider("Low", 1, 255, 100), Slider("High", 1, 255, 200)), invert)


@pytest.fixture(scope="module")
def runner(machine: Machine) -> Runner:
    return Runner(DEMO, machine)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return saved(tmp_path, Image.fromarray(pixels()))


def pixels() -> np.ndarray:
    """A square on black, 64 x 128."""
    image = np.zeros((64, 128, 3), np.uint8)
    image[16:48, 40:90] = (250, 120, 30)
    return image


def saved(folder: Path, image: Image.Image, name: str = "picture.png", **options) -> Path:
    image.save(folder / name, **options)
    return folder / name


def test_the_files_are_the_preview_and_what_the_pipeline_gives(runner, picture):
    told: list[Update] = []
    values = {"image": picture, "prompt": "a bird", "steps": 2.0, "seed": 5, "images": 2, "low": 50}
    pictures = runner.run(values, told.append)
    edges = np.repeat(CannyDetector()(pixels(), 50, 200)[:, :, None], 3, axis=2)
    assert np.array_equal(np.asarray(Image.open(pictures.preview)), 255 - edges)
    settings = Settings(steps=2, seed=5, images=2)
    expected = generate(tiny.control_ldm(cond_stage_config=tiny.CLIP), edges, "a bird", settings).images
    for path, image in zip(pictures.images, expected, strict=True):
        assert np.abs(np.asarray(Image.open(path)).astype(int) - image.astype(int)).max() <= 1
    assert [p.name for p in (pictures.preview, *pictures.images)] == ["canny_map.png", "canny_5.png", "canny_6.png"]
    assert pictures.seeds == [5, 6]
    steps = [update for update in told if update.what.startswith("Step")]
    assert [(update.share, update.what) for update in steps] == [(1 / 4, "Step 1 of 2"), (2 / 4, "Step 2 of 2")]
    decoded = [update for update in told if update.what.startswith("Image")]
    shares = [(update.share, update.what) for update in decoded]
    assert shares == [(3 / 4, "Image 1 of 2 decoded"), (1.0, "Image 2 of 2 decoded")]
    assert all(update.forming is steps[-1].forming for update in decoded)
    (shown,) = {update.control_map for update in steps}
    assert shown.read_bytes() == pictures.preview.read_bytes()
    assert [[image.shape for image in update.forming] for update in steps] == [[(8, 16, 3)] * 2] * 2


def test_the_images_know_how_they_were_made(runner, machine, picture):
    values = {"image": picture, "prompt": "a bird", "steps": 2, "seed": 5, "images": 2, "low": 50, "resolution": 64}
    pictures = runner.run(values)
    records = [read_record(path) for path in pictures.images]
    assert [(record.seed, record.index, record.batch_size) for record in records] == [(5, 0, 2), (6, 1, 2)]
    record = records[1]
    assert record.settings == Settings(steps=2, seed=5, images=2)
    assert (record.prompt, record.resolution) == ("a bird", 64)
    (control,) = record.controls
    assert (control.kind, control.is_map, control.options) == ("canny", False, {"low": 50, "high": 200})
    assert np.array_equal(pixels_of(control.png), 255 - np.asarray(Image.open(pictures.preview)))
    hashes = FileHashes()
    assert record.weights == tuple(hashes.of(file) for file in machine.checkpoints)
    assert record.config == hashes.of(machine.config)
    assert (record.runtime.device, record.runtime.precision) == ("cpu", "float32")
    assert runner.changes_since(record) == []


def test_the_map_that_was_kept_makes_the_same_images(runner, picture, tmp_path):
    first = runner.run({"image": picture, "steps": 1, "seed": 5, "resolution": 64})
    (control,) = read_record(first.images[0]).controls
    (tmp_path / "map.png").write_bytes(control.png)
    again = runner.run({"image": tmp_path / "map.png", "is_map": True, "steps": 1, "seed": 5, "resolution": 64})
    assert np.array_equal(*(np.asarray(Image.open(run.images[0])) for run in (first, again)))
    assert read_record(again.images[0]).controls[0].is_map


def test_what_has_changed_is_known_before_a_model_is_loaded(runner, machine, picture, tmp_path):
    record = read_record(runner.run({"image": picture, "steps": 1}).images[0])
    assert Runner(DEMO, machine).changes_since(record) == []
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"another")
    (files, precision) = Runner(DEMO, replace(machine, checkpoints=(str(other),), precision="bfloat16")).changes_since(
        record
    )
    assert files.startswith("other.safetensors (7 bytes) is not ")
    assert precision == "precision: float32 then, bfloat16 now"
    assert Runner(DEMO, replace(machine, checkpoints=("absent.pth",))).changes_since(record) == []


@pytest.mark.parametrize("preview", [invert, thicken_and_invert])
def test_a_map_that_an_app_has_shown_comes_back_as_it_was(machine, picture, tmp_path, preview):
    runner = Runner(replace(DEMO, preview=preview), machine)
    shown = runner.preview({"image": picture, "low": 50}).preview
    again = runner.preview({"image": shown, "is_map": True})
    assert again.preview.read_bytes() == shown.read_bytes()
    assert again.notices == ()
    assert np.asarray(Image.open(runner.preview({"image": shown}).preview)).shape == (64, 128, 3)
    pixels = np.asarray(Image.open(shown)).copy()
    pixels[:5] = 0
    changed = saved(tmp_path, Image.fromarray(pixels), "changed.png", pnginfo=_texts_of(shown))
    painted = runner.preview({"image": changed, "is_map": True})
    assert np.asarray(Image.open(painted.preview))[20, 0, 0] == 0, "as it was brought"
    (notice,) = painted.notices
    assert "mostly white, and expected is: white lines on black" in notice
    assert notice in runner.run({"image": changed, "is_map": True, "steps": 1}).notices


def _texts_of(file: Path) -> PngInfo:
    info = PngInfo()
    for key, value in Image.open(file).text.items():
        info.add_text(key, value)
    return info


def test_decoding_can_be_cancelled(runner, picture):
    def stop(update: Update) -> None:
        if update.what == "Image 1 of 3 decoded":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        runner.run({"image": picture, "steps": 1, "images": 3}, stop)


def test_a_start_image_of_another_shape_is_said_to_be_cropped(runner, picture):
    (*_, notice) = runner.run(
        {"image": picture, "init_image": np.zeros((90, 90, 3), np.uint8), "steps": 2, "denoise": 0.5}
    ).notices
    assert notice.startswith("Of the image to start from, 90 x 90, the middle 90 x 45 was taken")


def test_a_picked_seed_is_kept_and_said(runner, picture):
    pictures = runner.run({"image": picture, "steps": 1})
    assert [read_record(path).settings.seed for path in pictures.images] == pictures.seeds


def test_the_map_can_be_seen_before_and_without_a_model(picture):
    runner = Runner(DEMO, Machine(("absent.pth",), device="cpu"))
    shown = runner.preview({"image": picture, "low": 50, "resolution": 256})
    small = cv2.resize(pixels(), (512, 256), interpolation=cv2.INTER_LANCZOS4)
    expected = 255 - np.repeat(CannyDetector()(small, 50, 200)[..., None], 3, axis=2)
    assert np.array_equal(np.asarray(Image.open(shown.preview)), expected)


def test_what_the_listener_raises_ends_the_run_and_frees_the_model(runner, picture):
    class StopError(Exception):
        pass

    steps = []

    def stop(update: Update) -> None:
        if update.what.startswith("Step"):
            steps.append(update.what)
            raise StopError

    with pytest.raises(StopError):
        runner.run({"image": picture, "steps": 50}, stop)
    assert steps == ["Step 1 of 50"]
    assert runner.run({"image": picture, "steps": 1}).images


def test_a_missing_detector_is_a_notice_but_no_obstacle_to_maps(machine, picture, tmp_path):
    demo = Demo("Soft edges", "hed", HEDdetector, weights="hed", detect_at=512)
    runner = Runner(demo, replace(machine, detector=str(tmp_path)))
    assert "Control maps only" in runner.notice()
    assert "python tool_download.py hed" in runner.notice()
    with pytest.raises(FileNotFoundError, match=r"ControlNetHED.pth"):
        runner.run({"image": picture, "steps": 1})
    assert runner.run({"image": picture, "steps": 1, "is_map": True}).images


def test_the_sampler_that_was_chosen_makes_the_images(runner, picture):
    values = {"image": picture, "prompt": "a bird", "steps": 3, "seed": 5}
    images = {}
    for sampler in ("ddim", "dpm++", "unipc"):
        (path,) = runner.run({**values, "sampler": sampler}).images
        images[sampler] = np.asarray(Image.open(path)).astype(int)
    for one, other in combinations(images.values(), 2):
        assert np.abs(one - other).mean() > 0.1


def test_model_and_detector_are_made_once_and_not_before_the_first_run(machine, picture, monkeypatch):
    made = []
    load = pipeline.load
    monkeypatch.setattr(pipeline, "load", lambda *args, **given: (made.append("model"), load(*args, **given))[1])

    def detector(device: str) -> CannyDetector:
        made.append("detector")
        return CannyDetector(device=device)

    runner = Runner(Demo("Canny", "canny", detector), machine)
    assert made == []
    for _ in range(2):
        runner.run({"image": picture, "steps": 1})
    assert sorted(made) == ["detector", "model"]


def test_old_files_are_removed_and_the_last_ones_kept(machine, picture, monkeypatch):
    monkeypatch.setattr("cldm.runner._RUNS_KEPT", 2)
    runner = Runner(DEMO, machine)
    runs = [runner.run({"image": picture, "steps": 1}) for _ in range(2)]
    assert not runs[0].preview.exists()
    assert all(path.exists() for path in (runs[1].preview, *runs[1].images))


def test_a_run_outlasts_the_previews_of_others_meanwhile(runner, picture):
    def look(update: Update) -> None:
        for _ in range(20):
            runner.preview({"image": picture})

    pictures = runner.run({"image": picture, "steps": 1}, look)
    assert all(path.exists() for path in (pictures.preview, *pictures.images))


def test_a_missing_model_is_a_notice_and_a_message_until_it_is_there(machine, picture, tmp_path):
    late = tmp_path / "late.safetensors"
    runner = Runner(DEMO, Machine((str(late),), machine.config, "cpu"))
    assert "Cannot run yet" in runner.notice()
    assert str(late) in runner.notice()
    with pytest.raises(FileNotFoundError, match=r"late.safetensors"):
        runner.run({"image": picture, "steps": 1, "resolution": 256})
    late.write_bytes(Path(machine.checkpoints[0]).read_bytes())
    assert runner.notice() == ""
    assert runner.run({"image": picture, "steps": 1}).seeds


def test_the_miniatures_notice_and_defaults(monkeypatch, tmp_path):
    for name in ("cldm_mini.yaml", "sd_mini.safetensors", "control_mini.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "cldm_mini.yaml").write_text("model: {params: {image_size: 16}}")
    monkeypatch.setattr("cldm.runner.find_model", lambda *given: model_files.find_model(*given, folder=tmp_path))
    runner = Runner(DEMO)
    assert "Running on the bundled miniature" in runner.notice()
    settings, resolution, limits = runner.defaults()
    assert settings == model_files.MINIATURE_SETTINGS
    assert (resolution, limits.lowest, limits.highest) == (128, 64, 256)


def test_defaults_of_stable_diffusion(machine, tmp_path):
    file = tmp_path / "control_sd15_canny.pth"
    file.touch()
    settings, resolution, limits = Runner(DEMO, Machine((str(file),))).defaults()
    assert settings == Settings()
    assert (resolution, limits.lowest, limits.highest) == (512, 256, 768)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image": None}, "expected an image, got none: upload one, then press Run"),
        ({"sampler": "euler"}, r"sampler must be one of ddim, dpm\+\+, unipc, got 'euler'"),
        ({"sampler": ["ddim"]}, r"sampler must be one of ddim, dpm\+\+, unipc, got \['ddim'\]"),
        ({"sampler": "unipc", "eta": 0.5}, "eta must be 0 with the sampler unipc, got 0.5"),
        ({"steps": 2.5}, "steps must be a whole number from 1 to 100, got 2.5"),
        ({"steps": 101}, "steps must be a whole number from 1 to 100, got 101"),
        ({"images": 13}, "images must be a whole number from 1 to 12, got 13"),
        ({"strength": 2.5}, "strength must be a number from 0 to 2, got 2.5"),
        ({"scale": None}, "scale must be a number from 0.1 to 30, got None"),
        ({"resolution": 100}, "resolution must be a multiple of 64, got 100"),
        ({"resolution": 2048}, "resolution must be a whole number from 64 to 256, got 2048"),
        ({"is_map": "yes"}, "is_map must be true or false, got 'yes'"),
        ({"high": 300}, "High must be a whole number from 1 to 255, got 300"),
    ],
)
def test_impossible_values_are_refused(runner, picture, wrong, message):
    with pytest.raises(ValueError, match=message):
        runner.run({"image": picture, **wrong})


def test_what_no_record_could_keep_is_refused_before_the_work(machine, picture, monkeypatch):
    runner = Runner(DEMO, machine, [Further(DEMO)] * 16)
    for values, message in (
        ({}, "at most 16 control maps, got 17"),
        ({"prompt": "x" * 20_001}, "prompt must have at most"),
    ):
        with pytest.raises(ValueError, match=message):
            runner.run({"image": picture, **values}, lambda update: pytest.fail("it began"))


def test_programs_are_not_held_to_the_pages_limits(machine, picture):
    runner = Runner(DEMO, machine, for_page=False)
    assert runner.defaults()[2] == (64, 2048, True)
    beyond = {"steps": 120, "scale": 0.0, "strength": 2.5, "images": 13, "batch_size": 5, "resolution": 64}
    begun = []

    def stop(update: Update) -> None:
        begun.append(update.what)
        if update.what.startswith("Step"):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        runner.run({"image": picture, **beyond}, stop)
    assert begun[-1] == "Step 1 of 360"
    assert runner.preview({"image": picture, "resolution": 1024}).preview.is_file()
    with pytest.raises(ValueError, match="steps must be a whole number from 1 to 1000, got 1001"):
        runner.run({"image": picture, "steps": 1001})


def test_a_visitors_picture_is_decoded_up_to_64_megapixels(runner, machine, tmp_path, monkeypatch):
    monkeypatch.setattr("cldm.runner.MOST_UPLOADED", 64 * 128 - 1)
    picture = saved(tmp_path, Image.fromarray(pixels()))
    for press in (runner.preview, runner.run):
        with pytest.raises(ValueError, match=r"picture.png has 128 x 64 pixels, and at most .* megapixels are read"):
            press({"image": picture})
    assert Runner(DEMO, machine, for_page=False).preview({"image": picture}).preview.is_file()


def test_numpys_numbers_can_be_kept(runner, picture):
    values = {"image": picture, "steps": np.int64(1), "scale": np.float32(2), "seed": np.int32(5), "low": np.int64(50)}
    (image,) = runner.run({**values, "weight": np.float32(0.5), "resolution": np.int64(64)}).images
    record = read_record(image)
    assert (record.settings, record.resolution) == (Settings(steps=1, scale=2.0, seed=5), 64)
    assert (record.controls[0].options, record.controls[0].share) == ({"low": 50, "high": 200}, {"weight": 0.5})


def test_transparent_grey_and_deep_pictures_are_read(tmp_path):
    grey = Image.fromarray(pixels()).convert("L")
    for image in (grey, grey.convert("1"), Image.fromarray(pixels()).convert("P"), grey.convert("CMYK")):
        name = "picture.tif" if image.mode == "CMYK" else "picture.png"
        assert np.array_equal(read_upload(saved(tmp_path, image, name)), np.asarray(image.convert("RGB")))
    transparent = Image.fromarray(np.dstack([pixels(), np.full((64, 128), 90, np.uint8)]))
    assert np.array_equal(read_upload(saved(tmp_path, transparent)), np.asarray(transparent))
    assert read_upload(saved(tmp_path, grey.convert("LA"))).shape == (64, 128, 4)
    assert read_upload(saved(tmp_path, grey, transparency=0)).shape == (64, 128, 4)
    deep = Image.fromarray((np.asarray(grey).astype(np.uint16) << 8) + 77)
    assert np.array_equal(read_upload(saved(tmp_path, deep)), np.asarray(grey.convert("RGB")))


def test_a_photo_taken_sideways_is_put_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned a quarter clockwise
    photo = saved(tmp_path, Image.fromarray(pixels()), "photo.png", exif=exif)
    assert np.array_equal(read_upload(photo), np.rot90(pixels(), -1))
    assert ImageOps.exif_transpose(Image.open(photo)).size == (64, 128)


def test_no_pictures_are_refused_by_name(tmp_path, picture):
    cut = tmp_path / "cut.png"
    cut.write_bytes(picture.read_bytes()[:60])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    for file in (cut, text, tmp_path / "absent.png"):
        with pytest.raises((ValueError, FileNotFoundError), match=f"cannot read {file.name} as an image"):
            read_upload(file)
