"""Where a body's hands should be, and the joints in such a place (Simon et al. 2017, arXiv:1704.07809)."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from annotator.openpose.pose_machines import BOX, HandNetwork
from annotator.openpose.resampling import Enlargement, network_input, output_array
from annotator.openpose.skeleton import HAND_JOINTS, JOINTS

SCALES = (0.5, 1.0, 1.5, 2.0)  # times BOX, the side to which a hand's box is scaled; all multiples of the stride
SIGMA = 3.0  # image pixels
THRESHOLD = 0.05  # of the blurred heat
SMALLEST_BOX = 20  # pixels
BEYOND_WRIST = 0.33  # of the forearm, where the hand's centre is
SIDES = ("left", "right")


class HandBox(NamedTuple):
    """A square that should hold a hand, in pixels of the image; `person` counts the rows of the persons."""

    person: int
    side: str
    x: int
    y: int
    size: int


def hand_boxes(candidates: NDArray[np.float64], persons: NDArray[np.float64], height: int, width: int) -> list[HandBox]:
    """Squares beyond the wrists of all arms that were found whole.

    A square has sides of 1.5 times the forearm, or 1.35 times the upper arm if that is longer, and is clipped to
    the image; those smaller than 20 pixels are left out.

    Args:
        candidates: Peaks (n, 4) as `find_persons` gives them.
        persons: Persons (m, 20) likewise.
        height: Rows of the image.
        width: Columns of the image.
    """
    boxes = []
    for number, person in enumerate(persons):
        for side in SIDES:
            arm = person[[JOINTS.index(f"{side} {joint}") for joint in ("shoulder", "elbow", "wrist")]].astype(int)
            if (arm < 0).any():
                continue
            shoulder, elbow, wrist = candidates[arm, :2]
            forearm, upper_arm = np.linalg.norm(wrist - elbow), np.linalg.norm(elbow - shoulder)
            size = 1.5 * max(forearm, 0.9 * upper_arm)
            corner = np.maximum(wrist + BEYOND_WRIST * (wrist - elbow) - size / 2, 0)
            size = min(size, *((width, height) - corner))
            if size >= SMALLEST_BOX:
                boxes.append(HandBox(number, side, *corner.astype(int).tolist(), int(size)))
    return boxes


@torch.inference_mode()
def find_hand(network: HandNetwork, image: NDArray[np.uint8], box: HandBox) -> NDArray[np.float64]:
    """Find the joints of the hand in a box.

    Args:
        network: With its weights loaded.
        image: The whole image, RGB (h, w, 3).
        box: Where the hand is.

    Returns:
        x and y in pixels of the whole image and score of each joint, (21, 3); zeros where it was not found.

    Raises:
        ValueError: If the network's output is not finite.
    """
    crop = image[box.y : box.y + box.size, box.x : box.x + box.size]
    device = next(network.parameters()).device
    views = []
    for scale in SCALES:
        side = int(scale * BOX)
        heatmaps = output_array(network(network_input(crop, side, side, device)))
        views.append((heatmaps, Enlargement.between(heatmaps.shape[1:], (side, side), crop.shape[:2])))
    joints = np.zeros((HAND_JOINTS, 3))
    for joint in range(HAND_JOINTS):
        heat = sum(enlargement.enlarge(heatmaps[joint]) for heatmaps, enlargement in views) / len(SCALES)
        x, y, score = _strongest(heat)
        if score > 0:
            joints[joint] = box.x + x, box.y + y, score
    return joints


def _strongest(heat: NDArray[np.float64]) -> tuple[int, int, float]:
    """x, y and score at the maximum of the blob that holds most heat; zeros if there is no blob."""
    blobs, count = ndimage.label(ndimage.gaussian_filter(heat, SIGMA) > THRESHOLD, structure=np.ones((3, 3)))
    if count == 0:
        return 0, 0, 0.0
    numbers = np.arange(1, count + 1)
    blob = numbers[np.argmax(ndimage.sum_labels(heat, blobs, numbers))]
    y, x = ndimage.maximum_position(heat, blobs, blob)
    return x, y, heat[y, x]
