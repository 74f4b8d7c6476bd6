"""The arrays that people hand to `cldm.pipeline.generate`: checked, and turned into tensors and back.

Images are uint8 RGB (h, w, 3), masks uint8 (h, w).
"""

import numpy as np
import torch
from einops import rearrange
from scipy.ndimage import distance_transform_edt
from torch import Tensor

SIZE_STEP = 64  # an image's sides are multiples of it: the autoencoder takes 8, the U-Net 8 more
_INSIDE = 127  # a mask's values above it are inside


def check_image(name: str, image: np.ndarray) -> tuple[int, int]:
    """Check an image or a control map, and return its height and width.

    Raises:
        ValueError: If it is no uint8 array (h, w, 3) with sides that are multiples of 64.
    """
    _check_uint8(name, image, "(h, w, 3)")
    height, width, channels = image.shape if image.ndim == 3 else (0, 0, 0)
    if channels != 3 or not height or not width or height % SIZE_STEP or width % SIZE_STEP:
        raise ValueError(
            f"{name} must be (h, w, 3) with sides that are multiples of {SIZE_STEP}, got {image.shape}; "
            "annotator.util.HWC3 and resize_image make such arrays"
        )
    return height, width


def check_mask(mask: np.ndarray, size: tuple[int, int]) -> None:
    """Check a mask for an image of a height and width.

    Raises:
        ValueError: If it is no uint8 array of that size, or has nothing inside.
    """
    _check_uint8("mask", mask, "(h, w)")
    if mask.shape != size:
        raise ValueError(f"mask must be {size}, as large as the image, got {mask.shape}")
    if not (mask > _INSIDE).any():
        raise ValueError(f"mask must be above {_INSIDE} where to repaint, got {mask.max()} at most")


def as_hint(control_map: np.ndarray) -> Tensor:
    """(1, 3, h, w) in [0, 1]."""
    return rearrange(torch.from_numpy(control_map.copy()), "h w c -> 1 c h w").float() / 255


def as_pixels(image: np.ndarray) -> Tensor:
    """(1, 3, h, w) in [-1, 1]."""
    return as_hint(image) * 2 - 1


def as_image(pixels: Tensor) -> np.ndarray:
    """An image of (3, h, w) around [-1, 1]."""
    levels = ((pixels.float() + 1) * 127.5).round().clamp(0, 255)
    return rearrange(levels, "c h w -> h w c").to(torch.uint8).cpu().numpy()


def kept_latents(mask: np.ndarray, downsampling: int) -> Tensor:
    """1 for the latents that have nothing to repaint, 0 for the others, (1, 1, h, w)."""
    cells = rearrange(mask > _INSIDE, "(h y) (w x) -> h w (y x)", y=downsampling, x=downsampling)
    return torch.tensor(~cells.any(axis=2)).float()[None, None]


def repainted(original: np.ndarray, painted: np.ndarray, mask: np.ndarray, border: int) -> np.ndarray:
    """`painted` inside the mask, and `original`, unchanged, outside.

    Args:
        original: Image.
        painted: Image.
        mask: Of where to take `painted` from.
        border: Pixels inside the mask over which the one turns into the other.
    """
    inside = mask > _INSIDE
    if not border or inside.all():
        return np.where(inside[..., None], painted, original)
    depth = distance_transform_edt(inside)  # 1 for the outermost pixels inside
    share = np.clip(depth / (border + 1), 0, 1)[..., None]
    return np.rint(original + share * (painted.astype(np.float64) - original)).astype(np.uint8)


def _check_uint8(name: str, array: np.ndarray, shape: str) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        given = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name} must be a uint8 array {shape}, got {given}")
