"""Human poses: coloured skeletons, hands on request (OpenPose; Cao et al. 2017, arXiv:1611.08050)."""

from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from annotator.openpose.drawing import draw_hands, draw_skeletons
from annotator.openpose.hands import find_hand, hand_boxes
from annotator.openpose.persons import find_persons
from annotator.openpose.pose_machines import BodyNetwork, HandNetwork
from annotator.openpose.resampling import network_input, network_size, output_array
from annotator.util import check_image, choose_device, find_checkpoint, load_network


class OpenposeDetector:
    """Draws the poses of the people in an image.

    Attributes:
        device: Where the networks run.
        body_network: Finds joints and limbs; layers of `body_pose_model.pth`.
        hand_network: Finds the joints of hands; layers of `hand_pose_model.pth`, loaded when first asked for.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        device: str | torch.device = "auto",
        *,
        hand_checkpoint: str | Path | None = None,
    ) -> None:
        """Load the body network.

        Args:
            checkpoint: `body_pose_model.pth` or a folder with it; None is `annotator/ckpts/`.
            device: Where the networks are to run; "auto" takes the best there is.
            hand_checkpoint: `hand_pose_model.pth` or a folder with it; needed for hands alone. None is `checkpoint` if
                that is a folder, else `annotator/ckpts/`.

        Raises:
            FileNotFoundError: If the body network's weights are not there.
            ValueError: If the file is not what it should be, or there is no such device.
        """
        self.device = choose_device(device)
        is_folder = checkpoint is not None and Path(checkpoint).expanduser().is_dir()
        self._hand_checkpoint = checkpoint if hand_checkpoint is None and is_folder else hand_checkpoint
        self._hand_lock = Lock()
        path = find_checkpoint("body_pose_model.pth", checkpoint)
        self.body_network = load_network(BodyNetwork(), path).to(self.device)

    @cached_property
    def hand_network(self) -> HandNetwork:
        with self._hand_lock:  # `cached_property` has none since Python 3.12, and threads share a detector
            if "hand_network" not in vars(self):
                path = find_checkpoint("hand_pose_model.pth", self._hand_checkpoint)
                vars(self)["hand_network"] = load_network(HandNetwork(), path).to(self.device)
            return vars(self)["hand_network"]

    def __call__(self, image: NDArray[np.uint8], hand: bool = False) -> tuple[NDArray[np.uint8], dict[str, list[Any]]]:
        """Find people and draw them.

        Args:
            image: RGB uint8 (h, w, 3); grey and RGBA are converted. At most 32 times wider than high.
            hand: Whether to look for hands as well, which takes four passes of a larger network for each.

        Returns:
            The skeletons on black, RGB uint8 (h, w, 3), all black if nobody was found; and the persons in lists of
            numbers, ready for JSON:
            `candidate`: x and y in pixels, score and number of each joint that was found;
            `subset`: per person 18 numbers of candidates, -1 for joints that were not found, in the order of
            `annotator.openpose.skeleton.JOINTS`, then the sum of scores and the number of parts;
            `hands`: per hand the `person` (a row of `subset`), the `side` ("left" or "right") and 21 `joints`, each
            x, y and score, or None where it was not found.

        Raises:
            FileNotFoundError: If hands are asked for and their network's weights are not there.
            ValueError: If the image is not of that kind, or the network's output is noise or not finite.
        """
        image = check_image(image)
        height, width = image.shape[:2]
        hand_network = self.hand_network if hand else None
        with torch.inference_mode():
            outputs = self.body_network(network_input(image, *network_size(height, width), self.device))
        fields, heatmaps = map(output_array, outputs)
        candidates, persons = find_persons(fields, heatmaps, height, width)
        boxes = [] if hand_network is None else hand_boxes(candidates, persons, height, width)
        hands = [find_hand(hand_network, image, box) for box in boxes]

        canvas = draw_skeletons(np.zeros_like(image), candidates, persons)
        canvas = draw_hands(canvas, hands)
        return canvas, {
            "candidate": candidates.tolist(),
            "subset": persons.tolist(),
            "hands": [
                {"person": box.person, "side": box.side, "joints": [joint if joint[2] else None for joint in joints]}
                for box, joints in zip(boxes, [hand.tolist() for hand in hands], strict=True)
            ],
        }
