"""Boxes beyond the wrists, and the joints in them."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from annotator.openpose.hands import HandBox, find_hand, hand_boxes
from annotator.openpose.persons import find_persons
from annotator.openpose.skeleton import JOINTS
from openpose_scenes import Answers, crowd, figure, network_outputs


def arm(side: str, *points: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Candidates and persons with one arm: shoulder, elbow, wrist."""
    person = np.full((1, 20), -1.0)
    for number, joint in enumerate(("shoulder", "elbow", "wrist")):
        person[0, JOINTS.index(f"{side} {joint}")] = number
    return np.array([(*point, 1, i) for i, point in enumerate(points)], dtype=float), person


def test_box_is_beyond_the_wrist_and_as_large_as_the_arm_says() -> None:
    boxes = hand_boxes(*arm("left", (100, 100), (100, 150), (100, 250)), 600, 600)
    assert boxes == [HandBox(0, "left", 100 - 75, 250 + 33 - 75, 150)]
    boxes = hand_boxes(*arm("right", (100, 50), (100, 250), (200, 250)), 600, 600)
    size = 1.5 * 0.9 * 200
    assert boxes == [HandBox(0, "right", int(233 - size / 2), int(250 - size / 2), int(size))]


def test_boxes_are_clipped_and_small_ones_left_out() -> None:
    candidates, persons = arm("left", (50, 10), (50, 40), (50, 80))
    (box,) = hand_boxes(candidates, persons, 100, 100)
    assert (box.x, box.y, box.size) == (20, 63, 36)
    assert hand_boxes(candidates, persons, 82, 100) == []


def test_arms_with_a_joint_missing_have_no_hand() -> None:
    candidates, persons = arm("right", (50, 10), (50, 40), (50, 80))
    for joint in ("shoulder", "elbow", "wrist"):
        incomplete = persons.copy()
        incomplete[0, JOINTS.index(f"right {joint}")] = -1
        assert hand_boxes(candidates, incomplete, 300, 300) == []


def test_boxes_are_those_of_controlnet_aux() -> None:
    from controlnet_aux.open_pose import util
    from controlnet_aux.open_pose.body import Body

    height, width = 512, 768
    people = [*crowd(4, height, width), figure(20, 60, 400, 5), figure(730, 250, 440, 6)]
    candidates, persons = find_persons(*network_outputs(people, height, width), height, width)
    image = np.zeros((height, width, 3), dtype=np.uint8)
    theirs = [
        (number, "left" if is_left else "right", x, y, size)
        for number, body in enumerate(Body.format_body_result(candidates, persons))
        for x, y, size, is_left in util.handDetect(body, image)
    ]
    assert hand_boxes(candidates, persons, height, width) == theirs
    assert len(theirs) > 6


def heat_at(points: np.ndarray, peak: float = 1.0) -> Callable[[Tensor], Tensor]:
    """A hand network that sees joint i at `points[i]`, x and y in shares of the image."""

    def answer(image: Tensor) -> Tensor:
        cells = image.shape[2] // 8
        rows, columns = np.ogrid[:cells, :cells]
        heat = np.zeros((1, 22, cells, cells), dtype=np.float32)
        for joint, (x, y) in enumerate(points):
            squared = (columns + 0.5 - x * cells) ** 2 + (rows + 0.5 - y * cells) ** 2
            heat[0, joint] = peak * np.exp(-squared / (2 * (cells / 20) ** 2))
        return torch.from_numpy(heat)

    return answer


def test_joints_are_found_where_the_heat_is() -> None:
    points = np.random.default_rng(0).uniform(0.1, 0.9, size=(15, 2))
    box = HandBox(0, "left", 40, 70, 200)
    joints = find_hand(Answers(heat_at(points)), np.zeros((400, 300, 3), dtype=np.uint8), box)
    assert joints.shape == (21, 3)
    np.testing.assert_allclose(joints[:15, :2], points * 200 + (40, 70), atol=4)
    assert (joints[:15, 2] > 0.8).all()
    assert not joints[15:].any()  # no heat, not found


def test_network_sees_the_box_at_four_sizes() -> None:
    seen = []

    def answer(image: Tensor) -> Tensor:
        seen.append(image)
        return torch.zeros(1, 22, image.shape[2] // 8, image.shape[3] // 8)

    image = np.full((100, 120, 3), 255, dtype=np.uint8)
    image[20:50, 60:90] = (0, 64, 128)
    assert not find_hand(Answers(answer), image, HandBox(0, "left", 60, 20, 30)).any()
    assert [tuple(one.shape) for one in seen] == [(1, 3, side, side) for side in (184, 368, 552, 736)]
    for one in seen:
        bgr = one.mean(dim=(0, 2, 3))
        np.testing.assert_allclose(bgr, np.array([128, 64, 0]) / 256 - 0.5, atol=1e-6)


def test_largest_sum_wins_over_the_highest_peak() -> None:
    def answer(image: Tensor) -> Tensor:
        cells = image.shape[2] // 8
        rows, columns = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
        x, y = (columns + 0.5) / cells, (rows + 0.5) / cells
        sharp = 1.0 * torch.exp(-((x - 0.2) ** 2 + (y - 0.2) ** 2) / (2 * 0.05**2))
        broad = 0.5 * torch.exp(-((x - 0.7) ** 2 + (y - 0.7) ** 2) / (2 * 0.1**2))
        return (sharp + broad).expand(1, 22, cells, cells)

    joints = find_hand(Answers(answer), np.zeros((200, 200, 3), dtype=np.uint8), HandBox(0, "right", 0, 0, 200))
    np.testing.assert_allclose(joints[:, :2], 140, atol=4)


def test_joints_are_those_of_controlnet_aux(theirs_cubic: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from controlnet_aux.open_pose.hand import Hand

    def answer(image: Tensor) -> Tensor:
        generator = torch.manual_seed(image.shape[2])
        coarse = torch.rand(1, 22, 7, 7, generator=generator) ** 3
        return torch.nn.functional.interpolate(coarse, size=image.shape[2] // 8, mode="bicubic") - 0.1

    image = np.zeros((128, 128, 3), dtype=np.uint8)  # at 128 theirs, which works on 128x128, rescales nothing
    theirs = Hand.__new__(Hand)
    theirs.model = Answers(answer)
    joints = find_hand(Answers(answer), image, HandBox(0, "left", 0, 0, 128))
    np.testing.assert_array_equal(joints[:, :2], theirs(image))
    assert len(np.unique(joints[:, :2], axis=0)) > 10


def test_output_that_is_not_finite_is_an_error() -> None:
    def answer(image: Tensor) -> Tensor:
        return torch.full((1, 22, image.shape[2] // 8, image.shape[3] // 8), float("nan"))

    with pytest.raises(ValueError, match="not finite"):
        find_hand(Answers(answer), np.zeros((64, 64, 3), dtype=np.uint8), HandBox(0, "left", 0, 0, 64))


def test_crop_of_an_enlarged_image_is_what_the_network_sees() -> None:
    pattern = np.random.default_rng(0).integers(0, 256, size=(46, 46, 3), dtype=np.uint8)
    seen = []

    def answer(image: Tensor) -> Tensor:
        seen.append(image)
        return torch.zeros(1, 22, image.shape[2] // 8, image.shape[3] // 8)

    find_hand(Answers(answer), np.pad(pattern, ((10, 3), (20, 0), (0, 0))), HandBox(0, "left", 20, 10, 46))
    expected = cv2.resize(pattern, (184, 184), interpolation=cv2.INTER_CUBIC)[..., ::-1]
    np.testing.assert_allclose(seen[0][0].permute(1, 2, 0), expected / 256.0 - 0.5, atol=1e-6)
