"""Straight line segments, as of buildings and rooms, by mobile line segment detection.

G. Gu et al., "Towards Light-weight and Real-time Line Segment Detection", arXiv:2106.00186.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from annotator.mlsd.mlsd_network import MULTIPLE, MLSDLarge, MLSDTiny
from annotator.util import (
    check_finite,
    check_image,
    choose_device,
    find_checkpoint,
    load_network,
    resize_to_multiple,
)

FILES = {"large": "mlsd_large_512_fp32.pth", "tiny": "mlsd_tiny_512_fp32.pth"}
_NETWORKS = {"large": MLSDLarge, "tiny": MLSDTiny}
_MOST_LINES = 200
_MOST_PIXELS = 2048 * 2048  # bounds the memory at about 2 GB; the network was trained at 512 x 512


class MLSDdetector:
    """Straight lines of an image.

    Args:
        checkpoint: The file published for `size`, or a folder with it; None is `annotator/ckpts/`.
        device: "auto", "cuda", "mps", "cpu", ...
        size: Which network, "large" or "tiny".

    Attributes:
        network: Image and a channel of ones to the map of segments; its state dict has the published names.

    Raises:
        FileNotFoundError: If the checkpoint is not there.
        ValueError: If the checkpoint does not fit, or there is no such device or size.
    """

    def __init__(
        self, checkpoint: str | Path | None = None, device: str | torch.device = "auto", size: str = "large"
    ) -> None:
        if size not in _NETWORKS:
            raise ValueError(f"size must be one of {list(_NETWORKS)}, got {size!r}")
        self.device = choose_device(device)
        network = load_network(_NETWORKS[size](), find_checkpoint(FILES[size], checkpoint))
        self.network = network.to(self.device, memory_format=torch.channels_last)

    def __call__(self, image: np.ndarray, value: float = 0.1, distance: float = 0.1) -> np.ndarray:
        """Draw the lines.

        Args:
            image: uint8 RGB, (h, w, 3).
            value: Score, 0 to 1, above which a line is kept.
            distance: Length above which a line is kept, in pixels of half the image's resolution.

        Returns:
            uint8, (h, w): white lines, one pixel wide, on black; all black if there are none.

        Raises:
            ValueError: If the image is no such array, a threshold is negative, or the network's output is not finite.
        """
        image = check_image(image)
        lines = self.lines(image, value, distance)
        drawn = np.zeros(image.shape[:2], np.uint8)
        cv2.polylines(drawn, rearrange(lines.astype(np.int32), "n (end xy) -> n end xy", xy=2), False, 255)
        return drawn

    @torch.inference_mode()
    def lines(self, image: np.ndarray, value: float = 0.1, distance: float = 0.1) -> np.ndarray:
        """The lines themselves, best first.

        The network sees the image scaled to the nearest multiples of 16, and to 4 megapixels if it has more.

        Args:
            image: uint8 RGB, (h, w, 3).
            value: As in a call.
            distance: As in a call; where the image is scaled, it counts at the scaled size.

        Returns:
            Start (x, y) and end (x, y) in pixels of `image`, (n, 4) float; they may lie outside of it.

        Raises:
            ValueError: If the image is no such array, a threshold is negative, or the network's output is not finite.
        """
        image = check_image(image)
        if not (value >= 0 and distance >= 0):
            raise ValueError(f"expected thresholds of at least 0, got value {value} and distance {distance}")
        fitted = resize_to_multiple(image, MULTIPLE, at_most=_MOST_PIXELS)
        with_ones = torch.from_numpy(np.dstack([fitted, np.ones_like(fitted[:, :, 0])])).to(self.device)
        x = rearrange(with_ones, "h w c -> 1 c h w").float() / 127.5 - 1  # channels last in memory, which is faster
        lines = decode(check_finite(self.network(x))[0], value, distance).cpu().numpy()
        ratio = np.array(image.shape[1::-1]) / fitted.shape[1::-1]
        return lines * np.tile(ratio, 2)


def decode(segments: Tensor, value: float, distance: float) -> Tensor:
    """Read the lines off the network's map.

    Args:
        segments: (9, h, w): the logit of being the centre of a line, the displacements from there to the start (x, y)
            and the end (x, y), and four channels that are not needed.
        value: Score above which a line is kept.
        distance: Length above which a line is kept, in pixels of the map.

    Returns:
        Start (x, y) and end (x, y) in pixels of the network's input, which is twice the map's size, (n, 4), best
        first, n at most 200.
    """
    score = segments[:1].sigmoid()
    peak = score * (score == F.max_pool2d(score, 3, stride=1, padding=1))
    score, index = peak.flatten().topk(min(_MOST_LINES, peak.numel()))
    ends = rearrange(segments[1:5], "(end xy) h w -> (h w) end xy", xy=2)[index]
    length = (ends[:, 0] - ends[:, 1]).norm(dim=1)
    centre = torch.stack([index % segments.shape[2], index // segments.shape[2]], dim=1)
    lines = 2 * (centre[:, None] + ends)
    return rearrange(lines[(score > value) & (length > distance)], "n end xy -> n (end xy)")
