"""The detector as users call it."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from annotator import util
from annotator.openpose import OpenposeDetector
from openpose_scenes import Answers, crowd, network_outputs
from parity import RELATIVE_ERROR, assert_same_map, filled_state_dict, golden, published_names, relative_error


def nobody(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    return network_outputs([], height, width)


def grey(*shape: int) -> np.ndarray:
    return np.full(shape, 100, dtype=np.uint8)


def test_golden_outputs_become_the_golden_persons_and_canvas(answering: Callable) -> None:
    expected = golden("openpose_assembly")
    image = grey(*expected["image_hw"], 3)
    canvas, persons = answering(expected["paf"][0], expected["heatmap"][0])(image)
    np.testing.assert_allclose(persons["candidate"], expected["candidate"], atol=1e-5)
    np.testing.assert_allclose(persons["subset"], expected["subset"], atol=1e-5)
    assert_same_map(canvas, expected["canvas_rgb"], within=0, share=1)


def test_weights_come_from_the_file_and_rgb_is_swapped_for_the_network(openpose: OpenposeDetector) -> None:
    expected = golden("openpose")
    bgr = (expected["body_input"][0].transpose(1, 2, 0) + 0.5) * 256
    seen = []
    handle = openpose.body_network.register_forward_hook(lambda _, inputs, outputs: seen.append((inputs[0], outputs)))
    canvas, persons = openpose(np.rint(bgr[..., ::-1]).astype(np.uint8))
    handle.remove()
    ((pixels, (fields, heatmaps)),) = seen
    np.testing.assert_allclose(pixels, expected["body_input"], atol=1e-6)  # 184 high already, so not scaled
    assert relative_error(fields, expected["body_paf"]) < RELATIVE_ERROR
    assert relative_error(heatmaps, expected["body_heatmap"]) < RELATIVE_ERROR
    assert canvas.shape == (184, 184, 3)
    assert all(len(person) == 20 for person in persons["subset"])


def test_network_is_ready_for_use(openpose: OpenposeDetector) -> None:
    assert not openpose.body_network.training
    assert not any(parameter.requires_grad for parameter in openpose.body_network.parameters())
    assert openpose.body_network.state_dict().keys() == published_names("body_pose_model.pth").keys()


def test_nobody_is_a_black_map(answering: Callable) -> None:
    canvas, persons = answering(*nobody(120, 160))(grey(120, 160, 3))
    assert canvas.shape == (120, 160, 3)
    assert canvas.dtype == np.uint8
    assert not canvas.any()
    assert persons == {"candidate": [], "subset": [], "hands": []}


def test_persons_are_ready_for_json(answering: Callable) -> None:
    _, persons = answering(*network_outputs(crowd(2, 184, 248), 184, 248))(grey(184, 248, 3))
    assert len(persons["subset"]) == 2
    assert json.loads(json.dumps(persons)) == persons


def test_hands_are_drawn_and_reported_when_asked_for(answering: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = answering(*network_outputs(crowd(1, 368, 248), 368, 248))

    def answer(image: torch.Tensor) -> torch.Tensor:
        heat = torch.zeros(1, 22, image.shape[2] // 8, image.shape[3] // 8)
        middle = image.shape[2] // 16
        heat[0, 0, middle - 3 : middle + 3, middle - 3 : middle + 3] = 1  # the hand's wrist, in the box's middle
        return heat

    image = grey(368, 248, 3)
    without, persons = detector(image)
    assert persons["hands"] == []
    monkeypatch.setitem(vars(detector), "hand_network", Answers(answer))
    canvas, persons = detector(image, True)
    assert [(hand["person"], hand["side"]) for hand in persons["hands"]] == [(0, "left"), (0, "right")]
    changed = (canvas != without).any(axis=2)
    for hand in persons["hands"]:
        x, y, score = hand["joints"][0]
        assert score > 0.3
        assert hand["joints"][1:] == [None] * 20
        assert (canvas[int(y), int(x)] == (0, 0, 255)).all()
        assert changed[int(y), int(x)]
    assert json.loads(json.dumps(persons)) == persons


def test_hand_network_loads_when_first_asked_for(body_checkpoint: Path, tmp_path: Path) -> None:
    file = "hand_pose_model.pth"
    state = filled_state_dict(published_names(file))
    torch.save(state, tmp_path / file)
    detector = OpenposeDetector(body_checkpoint, "cpu", hand_checkpoint=tmp_path / file)
    assert "hand_network" not in vars(detector)
    assert torch.equal(detector.hand_network.get_parameter("conv5_1.weight"), state["conv5_1.weight"])
    assert detector.hand_network is detector.hand_network


def test_hands_are_looked_for_beside_the_body_in_a_folder_and_loaded_once(
    body_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "body_pose_model.pth").symlink_to(body_checkpoint)
    detector = OpenposeDetector(str(tmp_path), "cpu")  # as every other detector takes them
    assert detector.device == torch.device("cpu")
    with pytest.raises(FileNotFoundError, match=rf"no checkpoint at {tmp_path}/hand_pose_model\.pth"):
        detector(grey(64, 64, 3), hand=True)
    loaded = []
    monkeypatch.setattr("annotator.openpose.find_checkpoint", lambda file, given: tmp_path / file)
    monkeypatch.setattr("annotator.openpose.load_network", lambda network, path: loaded.append(path) or network)
    load = OpenposeDetector.hand_network.func  # without the lock that `cached_property` had until Python 3.12
    with ThreadPoolExecutor(4) as pool:
        networks = set(pool.map(load, [detector] * 4))
    assert (len(networks), len(loaded)) == (1, 1)


def test_missing_hand_checkpoint_is_said_before_the_image_is_looked_at(
    body_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(util, "CHECKPOINT_FOLDER", tmp_path)
    detector = OpenposeDetector(body_checkpoint, device="cpu")
    monkeypatch.setattr(detector, "body_network", None)
    with pytest.raises(FileNotFoundError, match=r"hand_pose_model\.pth.*tool_download\.py openpose_hand"):
        detector(grey(64, 64, 3), hand=True)


def test_missing_body_checkpoint_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "CHECKPOINT_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"body_pose_model\.pth.*tool_download\.py openpose"):
        OpenposeDetector(device="cpu")


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"conv1_1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no checkpoint of BodyNetwork"):
        OpenposeDetector(checkpoint=tmp_path / "other.pth", device="cpu")


@pytest.mark.parametrize("shape", [(184, 248), (184, 248, 1), (184, 248, 4)])
def test_grey_and_alpha_are_converted(shape: tuple[int, ...], answering: Callable) -> None:
    canvas, persons = answering(*network_outputs(crowd(1, 184, 248), 184, 248))(grey(*shape))
    assert canvas.shape == (184, 248, 3)
    assert len(persons["subset"]) == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (8000, 1), (40, 1), (7, 5), (300, 8000)])
def test_extreme_shapes_keep_their_size(shape: tuple[int, int], answering: Callable) -> None:
    canvas, persons = answering(*nobody(*shape))(grey(*shape, 3))
    assert canvas.shape == (*shape, 3)
    assert not canvas.any()
    assert persons["subset"] == []


def test_narrow_image_goes_through_the_real_network(openpose: OpenposeDetector) -> None:
    canvas, _ = openpose(grey(50, 1, 3))
    assert canvas.shape == (50, 1, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64, 3), dtype=np.float32), "dtype float32"),
        (np.zeros((0, 64, 3), dtype=np.uint8), "empty"),
        (np.zeros((64, 64, 2), dtype=np.uint8), r"shape \(64, 64, 2\)"),
        (np.zeros((10, 8000, 3), dtype=np.uint8), "at most 32 times wider than high"),
        ("image.png", "got str"),
    ],
)
def test_bad_images_are_one_clear_error(image: object, message: str, openpose: OpenposeDetector) -> None:
    with pytest.raises(ValueError, match=message):
        openpose(image)


@pytest.mark.parametrize("hand", [False, True])
def test_errors_are_not_swallowed_into_black(hand: bool, answering: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    fields, heatmaps = network_outputs(crowd(1, 368, 248), 368, 248)
    if not hand:
        heatmaps = np.full_like(heatmaps, np.nan)
    detector = answering(fields, heatmaps)
    broken = Answers(lambda image: torch.full((1, 22, image.shape[2] // 8, image.shape[3] // 8), float("nan")))
    monkeypatch.setitem(vars(detector), "hand_network", broken)
    with pytest.raises(ValueError, match="not finite"):
        detector(grey(368, 248, 3), hand=hand)


def test_image_is_left_as_it_is(answering: Callable) -> None:
    image = np.random.default_rng(0).integers(0, 256, size=(184, 248, 3), dtype=np.uint8)
    before = image.copy()
    answering(*network_outputs(crowd(1, 184, 248), 184, 248))(image)
    np.testing.assert_array_equal(image, before)
