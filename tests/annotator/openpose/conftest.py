"""Checkpoints whose weights follow from their names, and controlnet_aux beside us."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from annotator.openpose import OpenposeDetector
from openpose_scenes import body_answers
from parity import filled_state_dict, published_names


@pytest.fixture(scope="session")
def body_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = "body_pose_model.pth"
    path = tmp_path_factory.mktemp("openpose") / file
    torch.save(filled_state_dict(published_names(file)), path)
    return path


@pytest.fixture(scope="session")
def openpose(body_checkpoint: Path) -> OpenposeDetector:
    """A detector with made-up weights; tests must leave it as it is."""
    return OpenposeDetector(checkpoint=body_checkpoint, device="cpu")


@pytest.fixture
def answering(openpose: OpenposeDetector, monkeypatch: pytest.MonkeyPatch) -> Callable[..., OpenposeDetector]:
    """Makes a detector whose body network gives these fields and heat maps."""

    def make(fields: NDArray[np.float32], heatmaps: NDArray[np.float32]) -> OpenposeDetector:
        monkeypatch.setattr(openpose, "body_network", body_answers(fields, heatmaps))
        return openpose

    return make


@pytest.fixture
def theirs_cubic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have controlnet_aux scale by cubic interpolation, as the original does; it took to Lanczos and area."""
    from controlnet_aux.open_pose import util

    def scale_to(maps: NDArray, size: tuple[float, float]) -> NDArray:
        channels = [
            cv2.resize(channel, (int(size[1]), int(size[0])), interpolation=cv2.INTER_CUBIC)
            for channel in np.moveaxis(maps, 2, 0)
        ]
        return np.stack(channels, axis=2)

    def scale_by(maps: NDArray, fx: float, fy: float) -> NDArray:
        return scale_to(maps, (maps.shape[0] * fy, maps.shape[1] * fx))

    monkeypatch.setattr(util, "smart_resize", scale_to)
    monkeypatch.setattr(util, "smart_resize_k", scale_by)


@pytest.fixture
def their_persons() -> Callable[..., tuple[NDArray, NDArray]]:
    """What controlnet_aux makes of fields and heat maps of an image of that height and width."""
    from controlnet_aux.open_pose.body import Body

    def persons(
        fields: NDArray[np.float32], heatmaps: NDArray[np.float32], height: int, width: int
    ) -> tuple[NDArray, NDArray]:
        body = Body.__new__(Body)  # its constructor wants a checkpoint
        body.model = body_answers(fields, heatmaps)
        return body(np.zeros((height, width, 3), dtype=np.uint8))

    return persons
