"""From image pixels to a network's input, and from its output cells back to image pixels.

The way back (eight times larger, padding cut off, scaled to the image, both steps cubic) is linear and acts on rows and
columns alone, so it is one small matrix per axis. With them a map is enlarged by two matrix products, and a few
points of it are read without enlarging anything.
"""

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from annotator.openpose.pose_machines import BOX, STRIDE
from annotator.util import check_finite

HEIGHT = BOX // 2  # rows of the body network's input
WIDEST = 32  # times the height; the network then takes about 0.9 GB
PADDING = 128  # mid-grey, which the network sees as zero


def network_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns to which an image is scaled for the body network.

    Raises:
        ValueError: If the image is more than 32 times wider than high.
    """
    if width > WIDEST * height:
        raise ValueError(
            f"OpenPose scales images to a height of {HEIGHT}, so they may be at most {WIDEST} times wider than high, "
            f"got height {height} and width {width}; cut the image into shorter pieces"
        )
    return HEIGHT, max(1, round(width * HEIGHT / height))


def network_input(image: NDArray[np.uint8], height: int, width: int, device: torch.device) -> Tensor:
    """Scale an image (cubic) and pad it on the right and below to multiples of 8.

    Args:
        image: RGB uint8 (h, w, 3).
        height: Rows to scale to.
        width: Columns to scale to.
        device: Where the tensor is to live.

    Returns:
        BGR / 256 - 0.5, (1, 3, H, W).
    """
    scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    padded = np.pad(scaled, ((0, -height % STRIDE), (0, -width % STRIDE), (0, 0)), constant_values=PADDING)
    pixels = torch.from_numpy(rearrange(padded[..., ::-1], "h w bgr -> 1 bgr h w").astype(np.float32))
    return pixels.to(device) / 256 - 0.5


def output_array(maps: Tensor) -> NDArray[np.float32]:
    """The only item (c, H, W) of a batch of network outputs.

    Raises:
        ValueError: If a value is not finite.
    """
    return check_finite(maps)[0].float().cpu().numpy()


def _axis_matrix(cells: int, unpadded: int, length: int) -> NDArray[np.float64]:
    """What each of `length` image pixels takes from each of the network's `cells`, (length, cells)."""
    one_hot = np.eye(cells, dtype=np.float32)
    enlarged = cv2.resize(one_hot, (cells, STRIDE * cells), interpolation=cv2.INTER_CUBIC)[:unpadded]
    return cv2.resize(enlarged, (cells, length), interpolation=cv2.INTER_CUBIC).astype(np.float64)


@dataclass(frozen=True)
class Enlargement:
    """Takes maps on the network's cells to the pixels of the image.

    Attributes:
        rows: Weight of each row of cells in each row of pixels, (h, H).
        columns: The same for columns, (w, W).
    """

    rows: NDArray[np.float64]
    columns: NDArray[np.float64]

    @classmethod
    def between(cls, cells: tuple[int, int], unpadded: tuple[int, int], image: tuple[int, int]) -> Self:
        """Build the matrices.

        Args:
            cells: Rows and columns of the network's output.
            unpadded: Rows and columns of the network's input without its padding.
            image: Rows and columns of the image.
        """
        return cls(*map(_axis_matrix, cells, unpadded, image))

    def blurred(self, sigma: float) -> Self:
        """The same followed by a Gaussian filter of `sigma` image pixels, mirrored at the borders."""
        return type(self)(gaussian_filter1d(self.rows, sigma, axis=0), gaussian_filter1d(self.columns, sigma, axis=0))

    def enlarge(self, cells: NDArray[np.floating]) -> NDArray[np.float64]:
        """One map (H, W) at image size, (h, w)."""
        return self.rows @ cells @ self.columns.T

    def read(self, cells: NDArray[np.floating], x: NDArray[np.intp], y: NDArray[np.intp]) -> NDArray[np.float64]:
        """Values of enlarged maps (c, H, W) at n pixels `x`, `y`, (c, n)."""
        return np.einsum("cnw,nw->cn", self.rows[y] @ cells, self.columns[x])
