import math
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import annotator.midas
from annotator.midas import FILE, MidasDetector, depth_map, normal_map
from annotator.util import HWC3
from parity import assert_same_map, golden

FACING = [127, 127, 255]  # a normal that points at the camera
RNG = np.random.default_rng(3)


def test_maps_are_the_golden_ones(midas: MidasDetector) -> None:
    arrays = golden("midas")
    before = arrays["image"].copy()
    depth, normal = midas(arrays["image"])
    assert_same_map(depth, arrays["depth"])
    assert_same_map(normal, arrays["normal"])
    assert np.array_equal(arrays["image"], before)


def test_maps_are_those_of_controlnet_aux(midas: MidasDetector, aux_midas: Any) -> None:
    image = cv2.GaussianBlur(RNG.integers(0, 256, (64, 128, 3), dtype=np.uint8), (0, 0), 4)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    depth, normal = midas(image, 6.2, 0.4)
    their_depth, their_normal = aux_midas(
        image, 6.2, 0.4, depth_and_normal=True, detect_resolution=64, image_resolution=64
    )
    assert_same_map(HWC3(depth), their_depth)
    assert_same_map(normal, np.ascontiguousarray(their_normal[..., ::-1]))  # theirs is z, y, x


def test_a_ramp_in_depth() -> None:
    depth = np.tile(np.arange(11, dtype=np.float32), (6, 1))
    assert depth_map(depth)[0].tolist() == [int(255 * i / 10) for i in range(11)]
    normal = normal_map(depth, a=6.0, bg_th=0.45)
    assert (normal[:, :5] == FACING).all()
    # Sobel sums 1 + 2 + 1 differences over two pixels: x = 8, z = 6, length 10
    assert (normal[:, 5:10] == [int(0.8 * 127.5 + 127.5), 127, int(0.6 * 127.5 + 127.5)]).all()
    assert np.array_equal(normal_map(depth.T, 6.0, 0.45), normal.transpose(1, 0, 2)[..., [1, 0, 2]])


def test_a_smaller_a_makes_slopes_steeper() -> None:
    depth = np.tile(np.arange(8, dtype=np.float32), (8, 1))
    steep, default = normal_map(depth, 1.0, 0.0), normal_map(depth, 2 * math.pi, 0.0)
    assert (steep[:, 1:-1, 2] < default[:, 1:-1, 2]).all()


def test_constant_depth_is_black_and_faces_the_camera() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not depth_map(np.full((4, 5), 3, np.float32)).any()
        assert (normal_map(np.full((4, 5), 3, np.float32), 1.0, 0.1) == FACING).all()


def test_a_constant_image_gives_finite_depth(midas: MidasDetector) -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    assert np.isfinite(midas.inverse_depth(image)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        depth, normal = midas(image)
    assert depth.shape == (64, 64)
    assert normal.shape == (64, 64, 3)


class Brightness(torch.nn.Module):
    """Stands for the network where only the way there and back matters."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        assert x.shape[2] % 32 == x.shape[3] % 32 == 0
        assert -1 <= x.min() < x.max() <= 1
        return x.mean(1)


@pytest.mark.parametrize("size", [(185, 248), (64, 47), (33, 100), (40, 8000), (8000, 1)])
def test_the_map_of_any_size_lies_on_the_image(
    midas: MidasDetector, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(midas, "network", Brightness())
    rows, columns = np.mgrid[: size[0], : size[1]] / np.reshape(size, (2, 1, 1))
    image = np.uint8(255 * (0.3 * rows + 0.7 * columns**2))
    depth, normal = midas(image)
    assert normal.shape == (*size, 3)
    stretched = (image - float(image.min())) / np.ptp(image) * 255
    assert np.abs(depth - stretched).max() < 8  # the ramp's ends are pulled in where sides are scaled


def test_large_images_are_scaled_down_for_the_network(midas: MidasDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotator.midas, "MOST_PIXELS", 64 * 64)
    sizes = []
    monkeypatch.setattr(midas, "network", lambda x: sizes.append(tuple(x.shape[2:])) or x.mean(1))
    assert midas(RNG.integers(0, 256, (256, 128, 3), dtype=np.uint8))[0].shape == (256, 128)
    assert sizes == [(96, 32)]


@pytest.mark.parametrize("shape", [(40, 1, 3), (1, 40, 3), pytest.param((1, 8000, 3), marks=pytest.mark.slow)])
def test_extreme_shapes(midas: MidasDetector, shape: tuple[int, ...]) -> None:
    depth, normal = midas(RNG.integers(0, 256, shape, dtype=np.uint8))
    assert depth.shape == shape[:2]
    assert normal.shape == shape


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 1), (64, 64, 4)])
def test_grey_and_alpha_are_made_rgb(midas: MidasDetector, shape: tuple[int, ...]) -> None:
    image = RNG.integers(0, 256, shape, dtype=np.uint8)
    assert all(map(np.array_equal, midas(image), midas(HWC3(image))))


@pytest.mark.parametrize("image", [np.zeros((64, 64, 3), np.float32), np.zeros((0, 64, 3), np.uint8)])
def test_no_image_is_refused(midas: MidasDetector, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8|empty"):
        midas(image)


@pytest.mark.parametrize("a", [0.0, -1.0, math.nan, math.inf])
def test_a_must_be_positive(a: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        normal_map(np.ones((2, 2), np.float32), a, 0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_depth_that_is_not_finite_is_an_error_not_a_black_map(bad: float) -> None:
    depth = np.ones((2, 2), np.float32)
    depth[1, 1] = bad
    with pytest.raises(ValueError, match="must be finite"):
        depth_map(depth)


def test_an_output_that_is_not_finite_is_refused(midas: MidasDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(midas, "network", lambda x: torch.full((1, 64, 64), math.nan))
    with pytest.raises(ValueError, match="output is not finite"):
        midas.inverse_depth(np.zeros((64, 64, 3), np.uint8))


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        MidasDetector(checkpoint=tmp_path / "nothing_here.pt", device="cpu")


def test_a_checkpoint_that_lacks_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"scratch.layer1_rn.weight": torch.zeros(256, 256, 3, 3)}, tmp_path / FILE)
    with pytest.raises(ValueError, match=r"pretrained\.model\.cls_token"):
        MidasDetector(checkpoint=tmp_path / FILE, device="cpu")
