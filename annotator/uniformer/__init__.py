"""Segmentation maps in the colours of ADE20K, with UniFormer-S and UPerNet."""

from pathlib import Path

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from annotator.uniformer.ade20k import PALETTE
from annotator.uniformer.upernet import UNUSED, UniFormerUPerNet
from annotator.util import check_finite, check_image, choose_device, find_checkpoint, load_network, resize

FILE = "upernet_global_small.pth"
MEAN = (123.675, 116.28, 103.53)  # of ImageNet, RGB
STD = (58.395, 57.12, 57.375)
SHORT_SIDE, LONG_SIDE = 512, 2048  # the size the network was tested at: the first, unless the second would be exceeded
SMALLEST_SIDE = 32  # one pixel of the coarsest map
BAND_PIXELS = 2**18  # pixels whose logits are stretched at a time: 157 MB


class UniformerDetector:
    """Name what every pixel shows, as one of the 150 classes of ADE20K.

    The network always sees about the same number of pixels, so large images take little more time and memory.

    Args:
        checkpoint: `upernet_global_small.pth` or a folder with it; None is `annotator/ckpts/`.
        device: "auto", "cuda", "mps", "cpu", ...

    Attributes:
        network: Normalised RGB to logits of the classes; its state dict has the published names.

    Raises:
        FileNotFoundError: If the checkpoint is not there.
        ValueError: If the checkpoint does not fit, or there is no such device.
    """

    def __init__(self, checkpoint: str | Path | None = None, device: str | torch.device = "auto") -> None:
        self.device = choose_device(device)
        path = find_checkpoint(FILE, checkpoint)
        self.network = load_network(UniFormerUPerNet(), path, ignore=UNUSED).to(self.device)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The colour map, uint8 RGB (h, w, 3), of a uint8 RGB image (h, w, 3).

        Raises:
            ValueError: If `image` is no such image, or the network's output is not finite.
        """
        return PALETTE[self.labels(image)]

    @torch.inference_mode()
    def labels(self, image: np.ndarray) -> np.ndarray:
        """The class of every pixel, uint8 (h, w), an index of `ade20k.NAMES`; otherwise as calling the detector."""
        image = check_image(image)
        height, width = image.shape[:2]
        x = torch.from_numpy(resize(image, network_size(height, width), cv2.INTER_LINEAR))
        x = (x.to(self.device) - torch.tensor(MEAN, device=self.device)) / torch.tensor(STD, device=self.device)
        return best_class(check_finite(self.network(rearrange(x, "h w c -> 1 c h w")))[0], height, width)


def network_size(height: int, width: int) -> tuple[int, int]:
    """Height and width that the network sees of an image: of its shape, unless that is extremely thin."""
    scale = min(SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))
    return max(SMALLEST_SIDE, int(height * scale + 0.5)), max(SMALLEST_SIDE, int(width * scale + 0.5))


def best_class(logits: Tensor, height: int, width: int) -> np.ndarray:
    """Stretch logits bilinearly and take the largest, in bands of rows so that large images need little memory.

    Args:
        logits: (classes, h, w), at most 256 classes.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        uint8 (height, width).
    """
    last_row = logits.shape[1] - 1
    row = ((torch.arange(height, dtype=torch.float64) + 0.5) * (last_row + 1) / height - 0.5).clamp(0, last_row)
    above = row.floor().long()
    below = (above + 1).clamp(max=last_row)
    share = rearrange((row - above).to(logits), "h -> h 1")
    best = []
    for band in torch.arange(height).split(max(1, BAND_PIXELS // width)):
        stretched = torch.lerp(logits[:, above[band]], logits[:, below[band]], share[band])
        stretched = F.interpolate(stretched[None], size=(len(band), width), mode="bilinear")
        best.append(stretched[0].argmax(dim=0).to(torch.uint8).cpu())
    return torch.cat(best).numpy()
