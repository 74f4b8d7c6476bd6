"""A folder of images to a folder of maps."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from annotator.canny import CannyDetector
from annotator.folder import Problem, Settings, annotate_folder
from annotator.util import resize_image

RNG = np.random.default_rng(0)
SETTINGS = Settings("canny")
TRAINING = Settings("canny", resolution=64, training_set=True)


def canny():
    return CannyDetector(device="cpu")


def picture(path: Path, height: int = 90, width: int = 120) -> np.ndarray:
    pixels = cv2.resize(RNG.integers(0, 256, (6, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("b.png", "a/b.png", "a/c d.PNG"):
        picture(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.md").write_text("no image")
    return tmp_path / "in"


def test_every_image_gets_a_map_of_its_name_and_size(images, tmp_path):
    out = tmp_path / "out"
    report = annotate_folder(images, out, canny, SETTINGS)
    assert (report.made, report.kept, report.problems) == (3, 0, [])
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == [
        "a/b.png",
        "a/c d.png",
        "annotate.json",
        "b.png",
    ]
    for name in ("b", "a/b"):
        np.testing.assert_array_equal(read(out / f"{name}.png"), CannyDetector()(read(images / f"{name}.png")))


def test_images_are_scaled_first_if_asked(images, tmp_path):
    annotate_folder(images, tmp_path / "out", canny, Settings("canny", resolution=128))
    expected = CannyDetector()(resize_image(read(images / "b.png"), 128))
    np.testing.assert_array_equal(read(tmp_path / "out" / "b.png"), expected)


def test_maps_that_are_there_are_kept_and_others_made(images, tmp_path):
    out = tmp_path / "out"
    annotate_folder(images, out, canny, SETTINGS)
    (out / "b.png").write_bytes(b"kept")
    (out / "a" / "b.png").unlink()
    report = annotate_folder(images, out, canny, SETTINGS)
    assert (report.made, report.kept) == (1, 2)
    assert (out / "b.png").read_bytes() == b"kept"
    assert (out / "a" / "b.png").exists()

    def fails():
        raise AssertionError("nothing to do, so nothing to load")

    assert annotate_folder(images, out, fails, SETTINGS).kept == 3


def test_an_interruption_leaves_whole_maps_alone(images, tmp_path):
    out, seen = tmp_path / "out", []

    def interrupted():
        def detect(image):
            if seen:
                raise KeyboardInterrupt
            seen.append(image)
            return image

        return detect

    with pytest.raises(KeyboardInterrupt):
        annotate_folder(images, out, interrupted, SETTINGS, workers=1)
    assert sorted(path.name for path in out.rglob("*.*")) == ["annotate.json", "b.png"]
    assert annotate_folder(images, out, canny, SETTINGS).kept == 1


def test_what_cannot_be_read_or_detected_is_listed_and_the_others_go_on(images, tmp_path):
    (images / "cut.jpg").write_bytes((images / "b.png").read_bytes()[:200])
    picture(images / "thin.png", 200, 1)

    def choosy():
        def detect(image):
            if image.shape[1] == 1:
                raise ValueError("too thin")
            return image

        return detect

    report = annotate_folder(images, tmp_path / "out", choosy, SETTINGS)
    assert report.made == 3
    cut, thin = report.problems
    assert cut.image == Path("cut.jpg")
    assert "cannot read cut.jpg as an image" in cut.reason
    assert str(thin) == "thin.png: too thin"
    assert not (tmp_path / "out" / "cut.png").exists()
    (images / "cut.jpg").unlink()
    assert annotate_folder(images, tmp_path / "out", choosy, SETTINGS).problems == [thin]


def test_other_errors_end_it(images, tmp_path):
    def broken():
        def detect(image):
            raise RuntimeError("as it is")

        return detect

    with pytest.raises(RuntimeError, match="as it is"):
        annotate_folder(images, tmp_path / "out", broken, SETTINGS)


def test_two_images_for_one_name_are_said(images, tmp_path):
    picture(images / "b.webp")
    report = annotate_folder(images, tmp_path / "out", canny, SETTINGS)
    assert report.problems == [
        Problem(Path("b.webp"), "its map would have the name of that of b.png; rename the image")
    ]
    np.testing.assert_array_equal(read(tmp_path / "out" / "b.png"), CannyDetector()(read(images / "b.png")))


def test_a_training_set_has_pairs_and_the_captions_beside_the_images(images, tmp_path):
    out = tmp_path / "out"
    (images / "b.txt").write_text("a “plain”\n  picture\n", encoding="utf-8")
    (images / "a" / "b.txt").write_text(" \n")
    report = annotate_folder(images, out, canny, TRAINING)
    assert (report.made, report.rows) == (3, 1)
    assert [str(problem) for problem in report.problems] == [
        "a/b.png: b.txt is empty; left out of prompt.json",
        "a/c d.PNG: no caption, expected in c d.txt; left out of prompt.json",
    ]
    (row,) = map(json.loads, (out / "prompt.json").read_text(encoding="utf-8").splitlines())
    assert row == {"source": "source/b.png", "target": "target/b.png", "prompt": "a “plain” picture"}
    target = read(out / "target" / "b.png")
    assert target.shape == (64, 64, 3)
    scaled = cv2.resize(read(images / "b.png"), (85, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(target, scaled[:, 10:74])
    np.testing.assert_array_equal(read(out / "source" / "b.png"), CannyDetector()(target))
    (images / "a" / "b.txt").write_text("another")
    report = annotate_folder(images, out, canny, TRAINING)
    assert (report.made, report.kept, report.rows) == (0, 3, 2)


def test_a_training_set_can_keep_shapes_but_for_the_rest_of_64(images, tmp_path):
    picture(images / "wide.png", 50, 130)
    settings = Settings("canny", resolution=64, training_set=True, square=False)
    annotate_folder(images, tmp_path / "out", canny, settings)
    scaled = cv2.resize(read(images / "wide.png"), (166, 64), interpolation=cv2.INTER_LANCZOS4)
    np.testing.assert_array_equal(read(tmp_path / "out" / "target" / "wide.png"), scaled[:, 19:147])


def test_a_caption_that_is_no_text_is_said(images, tmp_path):
    (images / "b.txt").write_bytes(b"\xff\xfe\x00")
    report = annotate_folder(images, tmp_path / "out", canny, TRAINING)
    assert "b.png: b.txt is no UTF-8 text; left out of prompt.json" in map(str, report.problems)


def test_images_are_worked_on_at_the_same_time(images, tmp_path):
    threads, meeting = [], Barrier(3, timeout=60)

    def together():
        def detect(image):
            meeting.wait()
            threads.append(torch.get_num_threads())
            return image

        return detect

    before = torch.get_num_threads()
    assert annotate_folder(images, tmp_path / "out", together, SETTINGS, workers=3).made == 3
    assert threads == [max(1, before // 3)] * 3
    assert torch.get_num_threads() == before


def test_maps_inside_the_images_folder_are_no_images(images):
    for _ in range(2):
        report = annotate_folder(images, images / "maps", canny, SETTINGS)
    assert report.kept == 3


def test_other_settings_need_another_folder(images, tmp_path):
    out = tmp_path / "out"
    annotate_folder(images, out, canny, SETTINGS)
    with pytest.raises(ValueError, match=r"maps in .*out were made with .*'resolution': None.*asked for is .*: 64"):
        annotate_folder(images, out, canny, Settings("canny", resolution=64))


def test_other_weights_need_another_folder_too(images, tmp_path):
    out = tmp_path / "out"
    weighed = replace(SETTINGS, weights={"net.pth": 100})
    annotate_folder(images, out, canny, weighed)
    assert json.loads((out / "annotate.json").read_text())["weights"] == {"net.pth": 100}
    for other in ({"net.pth": 101}, {"another.pth": 100}):
        with pytest.raises(ValueError, match=r"were made with .*'net\.pth': 100.*asked for is .*give another folder"):
            annotate_folder(images, out, canny, replace(SETTINGS, weights=other))
    assert annotate_folder(images, out, canny, SETTINGS).kept == 3  # where there are none to make more with


def test_a_folder_of_an_earlier_version_says_nothing_of_weights_and_is_gone_on_with(images, tmp_path):
    out = tmp_path / "out"
    annotate_folder(images, out, canny, SETTINGS)
    earlier = json.loads((out / "annotate.json").read_text())
    del earlier["weights"]
    (out / "annotate.json").write_text(json.dumps(earlier))
    (out / "b.png").unlink()
    report = annotate_folder(images, out, canny, replace(SETTINGS, weights={"net.pth": 100}))
    assert (report.made, report.kept) == (1, 2)


def test_settings_without_maps_bind_nobody(images, tmp_path):
    def hopeless():
        def detect(image):
            raise ValueError("no")

        return detect

    assert annotate_folder(images, tmp_path / "out", hopeless, Settings("canny", resolution=64)).made == 0
    assert annotate_folder(images, tmp_path / "out", canny, SETTINGS).made == 3


def test_two_runs_share_a_folder(images, tmp_path):
    meeting = Barrier(2, timeout=60)

    def together():
        meeting.wait()  # both have found an empty folder
        return CannyDetector(device="cpu")

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(annotate_folder, images, tmp_path / "out", together, SETTINGS, 1) for _ in range(2)]
        reports = [run.result() for run in runs]
    assert [(report.made + report.kept, report.problems) for report in reports] == [(3, [])] * 2
    assert len(list((tmp_path / "out").rglob("*.*"))) == 4


def test_maps_that_another_run_makes_meanwhile_are_kept(images, tmp_path):
    out = tmp_path / "out"

    def slow():
        annotate_folder(images, out, canny, SETTINGS)
        return lambda image: pytest.fail("all maps are there")

    report = annotate_folder(images, out, slow, SETTINGS)
    assert (report.made, report.kept, report.problems) == (0, 3, [])

    def other():
        annotate_folder(images, tmp_path / "other", canny, Settings("canny", resolution=64))
        return canny()

    with pytest.raises(ValueError, match="give another folder"):
        annotate_folder(images, tmp_path / "other", other, SETTINGS)


def test_an_image_that_goes_away_is_listed(images, tmp_path):
    def late():
        (images / "b.png").unlink()
        return canny()

    report = annotate_folder(images, tmp_path / "out", late, SETTINGS)
    assert report.made == 2
    assert ["there is no file" in problem.reason for problem in report.problems] == [True]


def test_files_of_other_kinds_are_counted(images, tmp_path):
    (images / "a" / "phone.heic").touch()
    (images / "b.txt").write_text("a caption")
    report = annotate_folder(images, tmp_path / "out", canny, SETTINGS)
    assert report.left_out == [Path("a/phone.heic"), Path("notes.md")]


def test_a_detector_that_cannot_be_built_leaves_no_trace(images, tmp_path):
    def missing():
        raise FileNotFoundError("no checkpoint")

    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        annotate_folder(images, tmp_path / "out", missing, SETTINGS)
    assert not (tmp_path / "out").exists()


def test_folders_that_will_not_do(images, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder at .*nowhere"):
        annotate_folder(tmp_path / "nowhere", tmp_path / "out", canny, SETTINGS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no images in .*empty; expected are files that end in \.png"):
        annotate_folder(tmp_path / "empty", tmp_path / "out", canny, SETTINGS)
    with pytest.raises(ValueError, match="would be in the same folder"):
        annotate_folder(images, images, canny, SETTINGS)
    with pytest.raises(ValueError, match="has files that are not of this tool; give an empty or a new folder"):
        annotate_folder(images / "a", images, canny, SETTINGS)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "annotate.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot read .*annotate\.json"):
        annotate_folder(images, tmp_path / "odd", canny, SETTINGS)


@pytest.mark.parametrize("resolution", [None, 100, 0])
def test_training_needs_multiples_of_64(resolution):
    with pytest.raises(ValueError, match=f"needs a resolution that is a multiple of 64, got {resolution}"):
        Settings("canny", resolution=resolution, training_set=True)


def test_a_resolution_is_positive():
    with pytest.raises(ValueError, match="resolution must be a positive number of pixels, got -1"):
        Settings("canny", resolution=-1)
