"""People made of numbers: what OpenPose's body network would say of stick figures at known places, and who says it."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from annotator.openpose.resampling import network_size
from annotator.openpose.skeleton import JOINTS, LIMBS

# A standing figure of height 1, x to the image's right; in the order of JOINTS.
FIGURE = np.array(
    [
        *[(0, 0.1), (0, 0.2)],
        *[(-0.1, 0.21), (-0.14, 0.36), (-0.16, 0.5)],
        *[(0.1, 0.21), (0.14, 0.36), (0.17, 0.5)],
        *[(-0.06, 0.52), (-0.07, 0.74), (-0.08, 0.96)],
        *[(0.06, 0.52), (0.07, 0.74), (0.08, 0.96)],
        *[(-0.025, 0.075), (0.025, 0.075), (-0.06, 0.09), (0.06, 0.09)],
    ]
)


def figure(x: float, top: float, size: float, seed: int) -> NDArray[np.float64]:
    """Joints (18, 2) of a person of `size` pixels, its head's top at `x`, `top`, in a pose that the seed decides."""
    pose = np.random.default_rng(seed).normal(scale=0.015, size=FIGURE.shape)
    return (FIGURE + pose) * size + (x, top)


def crowd(count: int, height: int, width: int) -> list[NDArray[np.float64]]:
    """`count` people in two rows, apart from each other."""
    columns = -(-count // 2)
    size = 0.46 * height
    return [
        figure((i // 2 + 0.5) * width / columns, (i % 2) * 0.49 * height + 0.02 * height, size, seed=i)
        for i in range(count)
    ]


def network_outputs(
    people: list[NDArray[np.float64]], height: int, width: int, noise: float = 0.01
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fields (38, H, W) and heat maps (19, H, W) of people in an image of that many pixels.

    Joints that lie outside the image leave no blob, and limbs with such a joint no field.
    """
    scaled_height, scaled_width = network_size(height, width)
    rows, columns = -(-scaled_height // 8), -(-scaled_width // 8)
    cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).astype(float)  # x, y
    rng = np.random.default_rng(0)
    heatmaps = np.zeros((len(JOINTS) + 1, rows, columns))
    fields = np.zeros((2 * len(LIMBS), rows, columns))
    for person in people:
        inside = ((person >= 0) & (person < (width, height))).all(axis=1)
        joints = (person + 0.5) * (scaled_width / width, scaled_height / height) / 8 - 0.5
        for joint in np.flatnonzero(inside):
            blob = np.exp(-((cells - joints[joint]) ** 2).sum(axis=-1) / (2 * 0.9**2))
            heatmaps[joint] = np.maximum(heatmaps[joint], blob)
        for limb in LIMBS:
            if inside[limb.start] and inside[limb.end]:
                along = joints[limb.end] - joints[limb.start]
                direction = along / np.linalg.norm(along)
                share = np.clip((cells - joints[limb.start]) @ along / (along @ along), 0, 1)
                distance = np.linalg.norm(cells - joints[limb.start] - share[..., None] * along, axis=-1)
                strength = np.exp(-(distance**2) / (2 * 0.8**2))
                fields[limb.field : limb.field + 2] += strength * direction[:, None, None]
    heatmaps += rng.normal(scale=noise, size=heatmaps.shape)
    fields += rng.normal(scale=noise, size=fields.shape)
    heatmaps[-1] = 1 - heatmaps[:-1].max(axis=0)
    return fields.astype(np.float32), np.clip(heatmaps, 0, 1).astype(np.float32)


class Answers(nn.Module):
    """Stands in for a network: gives what `answer` makes of the input."""

    def __init__(self, answer: Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.answer = answer
        self.anywhere = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.answer(image)


def body_answers(fields: NDArray[np.float32], heatmaps: NDArray[np.float32]) -> Answers:
    """A body network that sees the same in every image of the right size."""

    def answer(image: Tensor) -> tuple[Tensor, Tensor]:
        assert image.shape[2:] == (8 * fields.shape[1], 8 * fields.shape[2])
        return torch.from_numpy(fields)[None], torch.from_numpy(heatmaps)[None]

    return Answers(answer)
