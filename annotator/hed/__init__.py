"""Soft edges by holistically-nested edge detection, and their thinning into scribbles.

S. Xie, Z. Tu, "Holistically-Nested Edge Detection", arXiv:1504.06375.
"""

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from annotator.hed.hed_network import REACH, STRIDE, HEDNetwork
from annotator.util import (
    check_finite,
    check_image,
    choose_device,
    find_checkpoint,
    load_network,
    resize,
    resize_to_multiple,
)

FILE = "ControlNetHED.pth"
_LARGEST_TILE = 1536  # pixels a side; larger images are cut, which bounds the memory of the first block


class HEDdetector:
    """Soft edges of an image.

    Large images go through the network in tiles that overlap by its reach, which changes nothing in the
    map and keeps the memory to one tile's share.

    Args:
        checkpoint: `ControlNetHED.pth` or a folder with it; None is `annotator/ckpts/`.
        device: "auto", "cuda", "mps", "cpu", ...

    Attributes:
        network: Image in 0 to 255 to five edge logits; its state dict has the published names.

    Raises:
        FileNotFoundError: If the checkpoint is not there.
        ValueError: If the checkpoint does not fit, or there is no such device.
    """

    def __init__(self, checkpoint: str | Path | None = None, device: str | torch.device = "auto") -> None:
        self.device = choose_device(device)
        network = load_network(HEDNetwork(), find_checkpoint(FILE, checkpoint))
        self.network = network.to(self.device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Grade every pixel by how much it is an edge.

        Args:
            image: uint8 RGB, (h, w, 3); sides that are not multiples of 16 are scaled to the nearest.

        Returns:
            uint8, (h, w): white edges on black.

        Raises:
            ValueError: If the image is no such array, or the network's output is not finite.
        """
        image = check_image(image)
        fitted = resize_to_multiple(image, STRIDE)
        size = fitted.shape[:2]
        logits = sum(F.interpolate(p, size, mode="bilinear") for p in self._projections(fitted)) / 5
        edge = (check_finite(logits).sigmoid_() * 255).to(torch.uint8)[0, 0].cpu().numpy()
        return edge if size == image.shape[:2] else resize(edge, image.shape[:2], cv2.INTER_LINEAR)

    def _projections(self, image: np.ndarray) -> list[Tensor]:
        """The network's outputs for a whole image of sides that are multiples of the stride, tile by tile."""
        height, width = image.shape[:2]
        strides = [STRIDE >> level for level in range(4, -1, -1)]
        whole = [torch.empty(1, 1, height // s, width // s, device=self.device) for s in strides]
        for (top, above, below, bottom), (left, before, after, right) in product(_tiles(height), _tiles(width)):
            pixels = torch.from_numpy(image[above:below, before:after]).to(self.device)
            outputs = self.network(rearrange(pixels, "h w c -> 1 c h w").float())
            for s, output, target in zip(strides, outputs, whole, strict=True):
                rows = slice((top - above) // s, (bottom - above) // s)
                columns = slice((left - before) // s, (right - before) // s)
                target[..., top // s : bottom // s, left // s : right // s] = output[..., rows, columns]
        return whole


def _tiles(side: int) -> Iterator[tuple[int, int, int, int]]:
    """Start of a tile, start and end of what the network sees for it, its end; all multiples of the stride."""
    tile = math.ceil(side / math.ceil(side / _LARGEST_TILE) / STRIDE) * STRIDE
    for start in range(0, side, tile):
        end = min(start + tile, side)
        yield start, max(start - REACH, 0), min(end + REACH, side), end


def nms(edge: np.ndarray, threshold: float, sigma: float) -> np.ndarray:
    """Thin soft edges to their ridges, by non-maximum suppression along four directions.

    Args:
        edge: uint8, (h, w) or (h, w, c); channels are thinned one by one.
        threshold: Blurred value, 0 to 255, above which a ridge is kept.
        sigma: Of the Gaussian blur that comes first, in pixels.

    Returns:
        uint8 of the same shape: 255 on ridges, 0 elsewhere.

    Raises:
        ValueError: If `edge` is empty or `sigma` is not positive.
    """
    if edge.size == 0 or not sigma > 0:
        raise ValueError(f"expected a map with pixels and a positive sigma, got the shape {edge.shape} and {sigma}")
    blurred = cv2.GaussianBlur(edge.astype(np.float32), (0, 0), sigma)
    lines = np.zeros((4, 3, 3), np.uint8)
    lines[0, 1, :] = lines[1, :, 1] = 1
    lines[2], lines[3] = np.eye(3), np.fliplr(np.eye(3))
    ridge = np.zeros(blurred.shape, bool)
    for line in lines:
        ridge |= blurred == cv2.dilate(blurred, line)
    thin = np.where(ridge & (blurred > threshold), np.uint8(255), np.uint8(0))
    return thin.reshape(edge.shape)  # OpenCV drops an axis of a single channel
