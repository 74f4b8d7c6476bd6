"""Depth and normal maps from one image, with MiDaS 3.0 (DPT-hybrid)."""

import math
from pathlib import Path

import cv2
import numpy as np
import torch
from einops import rearrange

from annotator.midas.dpt import MULTIPLE, UNUSED, DPTHybrid
from annotator.util import (
    check_finite,
    check_image,
    choose_device,
    find_checkpoint,
    load_network,
    resize,
    resize_to_multiple,
)

FILE = "dpt_hybrid-midas-501f0c75.pt"
MOST_PIXELS = 1024 * 2048  # a network trained at 384 x 384 sees no more in larger images; takes 2.5 GB


class MidasDetector:
    """Estimate how near every pixel is and which way its surface faces.

    The network sees images at their own size, scaled to sides that are multiples of 32; larger ones than
    `MOST_PIXELS` are scaled down.

    Args:
        checkpoint: `dpt_hybrid-midas-501f0c75.pt` or a folder with it; None is `annotator/ckpts/`.
        device: "auto", "cuda", "mps", "cpu", ...

    Attributes:
        network: RGB in [-1, 1] to inverse depth; its state dict has the published names.

    Raises:
        FileNotFoundError: If the checkpoint is not there.
        ValueError: If the checkpoint does not fit, or there is no such device.
    """

    def __init__(self, checkpoint: str | Path | None = None, device: str | torch.device = "auto") -> None:
        self.device = choose_device(device)
        path = find_checkpoint(FILE, checkpoint)
        self.network = load_network(DPTHybrid(), path, ignore=UNUSED).to(self.device)

    def __call__(self, image: np.ndarray, a: float = 2 * math.pi, bg_th: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
        """Detect depth and normals.

        Args:
            image: uint8 RGB, (h, w, 3).
            a: Length of the normals' z part; smaller makes slopes look steeper. Positive.
            bg_th: Pixels whose depth, scaled to [0, 1], is below this are background and face the camera.

        Returns:
            Depth, uint8 (h, w), nearest 255 and farthest 0; normals, uint8 (h, w, 3), x, y and z in that order from
            [-1, 1] to [0, 255].

        Raises:
            ValueError: If `image` is no such image, `a` is not positive, or the network's output is not finite.
        """
        inverse_depth = self.inverse_depth(image)
        return depth_map(inverse_depth), normal_map(inverse_depth, a, bg_th)

    @torch.inference_mode()
    def inverse_depth(self, image: np.ndarray) -> np.ndarray:
        """Inverse depth of a uint8 RGB image, float32 (h, w), up to an unknown scale and shift; larger is nearer."""
        image = check_image(image)
        x = torch.from_numpy(resize_to_multiple(image, MULTIPLE, at_most=MOST_PIXELS)).to(self.device)
        x = rearrange(x, "h w c -> 1 c h w") / 127.5 - 1
        return resize(check_finite(self.network(x))[0].cpu().numpy(), image.shape[:2], cv2.INTER_LINEAR)


def scale_to_unit(inverse_depth: np.ndarray) -> np.ndarray:
    """Shift and scale to [0, 1]; zeros if all values are the same.

    Raises:
        ValueError: If a value is not finite.
    """
    low, high = inverse_depth.min(), inverse_depth.max()
    if not np.isfinite([low, high]).all():
        raise ValueError(f"depth must be finite, got values from {low} to {high}; is the checkpoint damaged?")
    return (inverse_depth - low) / (high - low) if high > low else np.zeros_like(inverse_depth)


def depth_map(inverse_depth: np.ndarray) -> np.ndarray:
    """Show inverse depth, float32 (h, w), as a uint8 map: farthest 0, nearest 255."""
    return (scale_to_unit(inverse_depth) * 255).astype(np.uint8)


def normal_map(inverse_depth: np.ndarray, a: float, bg_th: float) -> np.ndarray:
    """Show the surface's directions as a uint8 map (h, w, 3) of x, y and z; arguments as for `MidasDetector`.

    Raises:
        ValueError: If `a` is not positive.
    """
    if not 0 < a < math.inf:
        raise ValueError(f"a, the length of the normals' z part, must be positive, got {a}")
    background = scale_to_unit(inverse_depth) < bg_th
    x = np.where(background, 0, cv2.Sobel(inverse_depth, cv2.CV_32F, 1, 0, ksize=3))
    y = np.where(background, 0, cv2.Sobel(inverse_depth, cv2.CV_32F, 0, 1, ksize=3))
    normal = np.stack([x, y, np.full_like(x, a)], axis=2)
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    return (normal * 127.5 + 127.5).astype(np.uint8)
