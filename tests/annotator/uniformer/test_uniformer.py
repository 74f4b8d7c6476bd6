from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import annotator.uniformer
from annotator.uniformer import FILE, UniformerDetector, best_class, network_size
from annotator.uniformer.ade20k import PALETTE
from annotator.util import HWC3
from parity import golden

RNG = np.random.default_rng(5)


def test_map_is_the_golden_one(uniformer: UniformerDetector) -> None:
    arrays = golden("uniformer")
    before = arrays["image"].copy()
    colours = uniformer(arrays["image"])
    assert colours.dtype == np.uint8
    assert (colours == arrays["detected_map"]).all(axis=2).mean() >= 0.999
    assert np.array_equal(arrays["image"], before)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((256, 192), (683, 512)),
        ((2160, 3840), (512, 910)),  # 4K
        ((1000, 8000), (256, 2048)),  # the long side limits
        ((1, 8000), (32, 2048)),
        ((500, 1), (2048, 32)),
        ((1, 1), (512, 512)),
    ],
)
def test_size_that_the_network_sees(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert network_size(*size) == expected


@pytest.mark.parametrize("size", [(37, 50), (12, 9), (5, 3), (1, 90), (64, 1)])
def test_bands_give_what_stretching_at_once_gives(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    monkeypatch.setattr(annotator.uniformer, "BAND_PIXELS", 100)
    logits = torch.randn(7, 12, 9, generator=torch.Generator().manual_seed(6))
    at_once = F.interpolate(logits[None].double(), size=size, mode="bilinear", align_corners=False)[0].argmax(0)
    ours = best_class(logits, *size)
    assert ours.dtype == np.uint8
    assert (ours == at_once.numpy()).mean() > 0.99


def test_a_constant_image(uniformer: UniformerDetector) -> None:
    colours = uniformer(np.full((2, 128, 3), 128, np.uint8))
    assert colours.shape == (2, 128, 3)
    assert {tuple(c) for c in colours.reshape(-1, 3)} <= {tuple(c) for c in PALETTE}


@pytest.mark.parametrize("shape", [(500, 1, 3), (1, 8000, 3)])
def test_extreme_shapes(uniformer: UniformerDetector, shape: tuple[int, ...]) -> None:
    assert uniformer(RNG.integers(0, 256, shape, dtype=np.uint8)).shape == shape


@pytest.mark.parametrize("shape", [(2, 200), (2, 200, 4)])
def test_grey_and_alpha_are_made_rgb(uniformer: UniformerDetector, shape: tuple[int, ...]) -> None:
    image = RNG.integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(uniformer(image), uniformer(HWC3(image)))


@pytest.mark.parametrize("image", [np.zeros((64, 64, 3), np.float32), np.zeros((0, 64, 3), np.uint8)])
def test_no_image_is_refused(uniformer: UniformerDetector, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8|empty"):
        uniformer(image)


def test_an_output_that_is_not_finite_is_refused(uniformer: UniformerDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uniformer, "network", lambda x: torch.full((1, 150, 8, 8), torch.nan))
    with pytest.raises(ValueError, match="not finite"):
        uniformer(np.zeros((64, 64, 3), np.uint8))


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        UniformerDetector(checkpoint=tmp_path / "nothing_here.pth", device="cpu")


def test_a_checkpoint_that_lacks_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"backbone.norm1.weight": torch.zeros(64)}}, tmp_path / FILE)
    with pytest.raises(ValueError, match=r"backbone\.norm1\.bias|backbone\.patch_embed1"):
        UniformerDetector(checkpoint=tmp_path / FILE, device="cpu")
