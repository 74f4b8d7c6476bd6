"""Makes the pictures of docs/annotator.md: python -m docs.annotator.make_pictures, in the project's root.

Canny runs on a photograph. The other detectors need weights that cannot be in this repository, so their networks are
stood in for by made-up outputs; what turns these into maps is the detectors' own code.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from annotator.canny import CannyDetector
from annotator.hed import nms
from annotator.images import read_image
from annotator.midas import depth_map, normal_map
from annotator.mlsd import decode
from annotator.openpose.drawing import draw_skeletons
from annotator.openpose.persons import find_persons
from annotator.uniformer import best_class
from annotator.uniformer.ade20k import NAMES, PALETTE
from annotator.util import HWC3
from tests.openpose_scenes import crowd, network_outputs

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 320, 448
_GAP = 8
_CORNERS = {  # of a room: its far wall, then where its edges leave the picture; (x, y)
    "far": [(140, 90), (320, 90), (320, 220), (140, 220)],
    "near": [(10, 8), (438, 8), (438, 310), (10, 310)],
}


def canny() -> list[np.ndarray]:
    photo = read_image(ROOT / "test_imgs" / "temple.jpg")
    return [photo, CannyDetector()(photo, 100, 200)]


def hed() -> list[np.ndarray]:
    """Soft lines as the network would draw them, and what `nms` makes of them."""
    lines = 255 - read_image(ROOT / "test_imgs" / "scribble_house.png")[:, :, 0]
    edge = cv2.GaussianBlur(lines, (0, 0), 4).astype(np.float32)
    edge = np.minimum(edge * 2.5, 255).astype(np.uint8)
    return [edge, nms(edge, 127, 3.0)]


def mlsd() -> list[np.ndarray]:
    """A room's lines as centres and displacements, as the network gives them, and the map that is decoded."""
    far, near = _CORNERS["far"], _CORNERS["near"]
    lines = [(far[i], far[(i + 1) % 4]) for i in range(4)] + list(zip(far, near, strict=True))
    lines += [((180, 220), (180, 130)), ((180, 130), (240, 130)), ((240, 130), (240, 220))]
    segments = torch.full((9, HEIGHT // 2, WIDTH // 2), -9.0)
    for ends in np.array(lines, np.float32) / 2:
        x, y = ends.mean(axis=0).round().astype(int)
        segments[0, y, x] = 3
        segments[1:5, y, x] = torch.from_numpy((ends - (x, y)).ravel())
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    found = decode(segments, 0.1, 0.1).numpy().astype(np.int32)
    cv2.polylines(drawn, found.reshape(-1, 2, 2), False, 255)
    return [drawn]


def midas() -> list[np.ndarray]:
    """Inverse depth of three balls on a floor, as a depth map and as normals."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    inverse = np.maximum(0, y - 130) * 2.2
    for cx, cy, radius, near in [(130, 190, 80, 330), (270, 150, 50, 160), (350, 240, 65, 420)]:
        square = radius**2 - (x - cx) ** 2 - (y - cy) ** 2
        inverse = np.where(square > 0, np.maximum(inverse, near + np.sqrt(np.maximum(square, 0))), inverse)
    return [depth_map(inverse), normal_map(inverse, a=6.2, bg_th=0.1)]


def openpose() -> list[np.ndarray]:
    """Heat maps and fields of four stick figures, assembled to persons and drawn."""
    fields, heatmaps = network_outputs(crowd(4, HEIGHT, WIDTH), HEIGHT, WIDTH)
    candidates, persons = find_persons(fields, heatmaps, HEIGHT, WIDTH)
    return [draw_skeletons(np.zeros((HEIGHT, WIDTH, 3), np.uint8), candidates, persons)]


def uniformer() -> list[np.ndarray]:
    """Logits of a street at a quarter of the size, stretched and coloured."""
    small = np.full((HEIGHT // 4, WIDTH // 4), NAMES.index("sky"), np.uint8)
    flats = {
        "road": [(0, 80), (48, 44), (64, 44), (112, 80)],
        "sidewalk": [(64, 44), (74, 44), (112, 64), (112, 80)],
        "building": [(0, 6), (48, 34), (48, 44), (0, 80)],
        "tree": [(74, 44), (82, 20), (104, 10), (112, 24), (112, 64)],
        "car": [(50, 58), (56, 50), (68, 50), (74, 58), (74, 66), (50, 66)],
        "person": [(88, 42), (92, 42), (94, 64), (86, 64)],
    }
    for name, corners in flats.items():
        cv2.fillPoly(small, [np.array(corners, np.int32)], NAMES.index(name))
    logits = torch.nn.functional.one_hot(torch.from_numpy(small).long(), len(NAMES)).movedim(2, 0).float()
    return [PALETTE[best_class(logits, HEIGHT, WIDTH)]]


def row(panels: list[np.ndarray]) -> Image.Image:
    """Pictures side by side at one height, on white."""
    images = [Image.fromarray(HWC3(panel)) for panel in panels]
    images = [image.resize((round(image.width * HEIGHT / image.height), HEIGHT)) for image in images]
    whole = Image.new("RGB", (sum(image.width + _GAP for image in images) - _GAP, HEIGHT), "white")
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width + _GAP
    return whole


def main() -> None:
    for make in (canny, hed, mlsd, midas, openpose, uniformer):
        row(make()).save(Path(__file__).with_name(f"{make.__name__}.png"), optimize=True)


if __name__ == "__main__":
    main()
