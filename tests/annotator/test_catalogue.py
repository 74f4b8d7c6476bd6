"""What the catalogue says of the detectors is what they are."""

import inspect
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from annotator.canny import CannyDetector
from annotator.catalogue import CATALOGUE, Option
from annotator.hed import HEDdetector
from annotator.manifest import DETECTOR_FILES
from parity import filled_state_dict, golden, published_names


@pytest.mark.parametrize("name", CATALOGUE)
def test_options_are_arguments_of_the_call_within_their_ranges(name):
    module, target = CATALOGUE[name].target.rsplit(".", 1)
    detector = getattr(import_module(module), target)
    _self, _image, *arguments = inspect.signature(detector.__call__).parameters.values()
    assert [argument.name for argument in arguments] == [option.name for option in CATALOGUE[name].options]
    for argument, option in zip(arguments, CATALOGUE[name].options, strict=True):
        assert option.checked(option.value) == option.value
        assert option.checked(argument.default) == pytest.approx(option.value, rel=0.02)


@pytest.mark.parametrize("name", CATALOGUE)
def test_weights_are_arguments_of_the_constructor(name):
    module, target = CATALOGUE[name].target.rsplit(".", 1)
    arguments = inspect.signature(getattr(import_module(module), target)).parameters
    assert {DETECTOR_FILES[weights].argument for weights in CATALOGUE[name].weights} <= set(arguments)


def test_all_files_but_the_small_mlsd_belong_to_a_detector():
    used = [weights for entry in CATALOGUE.values() for weights in entry.weights]
    assert sorted([*used, "mlsd_tiny"]) == sorted(DETECTOR_FILES)


def test_canny_through_the_catalogue_is_canny():
    entry, image = CATALOGUE["canny"], golden("hed")["image"]
    detector = entry.build(device="cpu")
    for options, arguments in [({}, ()), ({"low_threshold": 20}, (20, 200)), ({"high_threshold": 250}, (100, 250))]:
        maps = entry.detect(detector, image, options)
        assert list(maps) == ["map"]
        np.testing.assert_array_equal(maps["map"], CannyDetector()(image, *arguments))


def test_hed_is_built_from_a_folder(tmp_path):
    torch.save(filled_state_dict(published_names("ControlNetHED.pth")), tmp_path / "ControlNetHED.pth")
    entry, image = CATALOGUE["hed"], golden("hed")["image"]
    found = entry.detect(entry.build(tmp_path, "cpu"), image, {})
    np.testing.assert_array_equal(found["map"], HEDdetector(tmp_path, "cpu")(image))
    assert entry.missing(tmp_path) == ""


def test_several_maps_have_names_and_the_rest_is_left():
    entry = CATALOGUE["midas"]
    depth, normal = np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3), np.uint8)
    maps = entry.detect(lambda image, a, bg_th: (depth, normal), depth, {})
    assert maps["depth"] is depth
    assert maps["normal"] is normal
    assert list(CATALOGUE["openpose"].detect(lambda image, hand: (normal, {"candidate": []}), depth, {})) == ["map"]


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if entry.weights])
def test_what_is_missing_says_how_to_get_it(name, tmp_path):
    command = f"`python tool_download.py {CATALOGUE[name].weights[0]} --to {tmp_path}`"
    assert command in CATALOGUE[name].missing(tmp_path)
    with pytest.raises(FileNotFoundError, match=command):
        CATALOGUE[name].build(tmp_path, "cpu")


def test_the_hand_file_is_asked_for_as_the_constructor_names_it(tmp_path):
    torch.save(filled_state_dict(published_names("body_pose_model.pth")), tmp_path / "body_pose_model.pth")
    entry = CATALOGUE["openpose"]
    detector = entry.build(tmp_path, "cpu")
    assert entry.files(tmp_path) == entry.files(tmp_path, {"hand": False}) == [tmp_path / "body_pose_model.pth"]
    assert entry.missing(tmp_path) == ""
    with pytest.raises(FileNotFoundError, match=r"hand_pose_model\.pth"):
        entry.files(tmp_path, {"hand": True})
    with pytest.raises(FileNotFoundError, match=r"tool_download\.py openpose_hand --to .* pass hand_checkpoint=PATH"):
        entry.detect(detector, np.zeros((64, 64, 3), np.uint8), {"hand": True})


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("canny", {"low_threshold": 0}, "Low threshold must be a number from 1 to 255, got 0"),
        ("canny", {"low_threshold": None}, "got None"),
        ("canny", {"low_threshold": True}, "got True"),
        ("mlsd", {"value": float("nan")}, "Value threshold must be a number from 0.01 to 2, got nan"),
        ("openpose", {"hand": 1}, "Hands must be true or false, got 1"),
        ("hed", {"hand": True}, r"HED soft edges has no option \['hand'\]; its options are \[\]"),
    ],
)
def test_wrong_options_are_refused(name, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        CATALOGUE[name].detect(lambda image, **rest: image, np.zeros((2, 2, 3), np.uint8), options)


def test_an_option_that_is_true_or_false_is_a_switch():
    assert Option("a", "A", False).is_switch
    assert not Option("a", "A", 0).is_switch


def test_the_document_shows_every_detector_and_names_every_file():
    docs = Path(__file__).resolve().parents[2] / "docs"
    text = (docs / "annotator.md").read_text()
    for name in CATALOGUE:
        assert f"(annotator/{name}.png)" in text
        assert (docs / "annotator" / f"{name}.png").is_file()
    for name, entry in DETECTOR_FILES.items():
        assert f"`{name}`" in text
        assert f"`{entry.file}`" in text
