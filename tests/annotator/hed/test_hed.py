from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import annotator.hed
from annotator.hed import FILE, HEDdetector, nms
from parity import assert_same_map, golden

RNG = np.random.default_rng(2)


def blobs(height: int, width: int) -> np.ndarray:
    coarse = RNG.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def hed(filled_checkpoint: Callable[[str], Path]) -> HEDdetector:
    return HEDdetector(filled_checkpoint(FILE), device="cpu")


def test_map_is_the_golden_one(hed: HEDdetector) -> None:
    arrays = golden("hed")
    before = arrays["image"].copy()
    assert_same_map(hed(arrays["image"]), arrays["edge"])
    assert np.array_equal(arrays["image"], before)


def test_map_is_that_of_controlnet_aux(hed: HEDdetector, filled_checkpoint: Callable[[str], Path]) -> None:
    aux = pytest.importorskip("controlnet_aux.hed")
    network = aux.ControlNetHED_Apache2()
    network.load_state_dict(torch.load(filled_checkpoint(FILE)))
    image = blobs(128, 192)
    theirs = aux.HEDdetector(network.eval())(image, detect_resolution=128, image_resolution=128, output_type="np")
    ours = hed(image)
    assert ours.std() > 10
    assert_same_map(ours, theirs[:, :, 0])


def test_tiles_change_nothing(hed: HEDdetector, monkeypatch: pytest.MonkeyPatch) -> None:
    image = blobs(368, 272)
    whole = hed(image)
    seen = []
    monkeypatch.setattr(annotator.hed, "_LARGEST_TILE", 128)
    with hed.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2:])):
        tiled = hed(image)
    assert len(seen) == 9
    assert max(max(size) for size in seen) < 368
    assert_same_map(tiled, whole, share=1)


@pytest.mark.parametrize("shape", [(37, 53, 3), (70, 50), (48, 32, 4), (40, 1, 3), (1, 1, 3), (5, 8000, 3)])
def test_any_image_gives_a_map_of_its_size(hed: HEDdetector, shape: tuple[int, ...]) -> None:
    edge = hed(RNG.integers(0, 256, shape, dtype=np.uint8))
    assert edge.shape == shape[:2]
    assert edge.dtype == np.uint8


def test_other_sizes_are_scaled_to_the_stride_and_back(hed: HEDdetector) -> None:
    small = blobs(96, 128)
    large = cv2.resize(small, (131, 99), interpolation=cv2.INTER_LINEAR)
    scaled_back = cv2.resize(hed(large), (128, 96), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(scaled_back.ravel(), hed(small).ravel())[0, 1] > 0.9


def test_a_constant_image_gives_a_map_of_no_surprises(hed: HEDdetector) -> None:
    inside = hed(np.full((256, 256, 3), 128, np.uint8))[112:144, 112:144]
    assert np.ptp(inside) <= 1


def test_bad_input_is_one_clear_error(hed: HEDdetector) -> None:
    with pytest.raises(ValueError, match="dtype float32"):
        hed(np.zeros((64, 64, 3), np.float32))
    with pytest.raises(ValueError, match="empty"):
        hed(np.zeros((0, 64, 3), np.uint8))


def test_a_missing_or_wrong_checkpoint_is_one_clear_error(
    tmp_path: Path, filled_checkpoint: Callable[[str], Path]
) -> None:
    with pytest.raises(FileNotFoundError, match=r"ControlNetHED\.pth .*`python tool_download\.py hed --to .*/nowhere`"):
        HEDdetector(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no checkpoint of HEDNetwork.*block1"):
        HEDdetector(filled_checkpoint("mlsd_tiny_512_fp32.pth"))


def test_an_output_that_is_not_finite_is_refused(hed: HEDdetector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hed.network.norm, "data", torch.full_like(hed.network.norm, torch.nan))
    with pytest.raises(ValueError, match="not finite"):
        hed(blobs(32, 32))


# Thinning


def test_thinning_is_the_golden_one() -> None:
    arrays = golden("hed")
    assert_same_map(nms(arrays["edge"], 127, 3.0), arrays["nms"], within=0)


def test_thinning_is_that_of_controlnet_aux() -> None:
    aux = pytest.importorskip("controlnet_aux.util")
    edge = cv2.GaussianBlur(RNG.integers(0, 256, (90, 70), dtype=np.uint8), (0, 0), 2)
    edge = cv2.normalize(edge, None, 0, 255, cv2.NORM_MINMAX)
    ours = nms(edge, 110, 1.5)
    assert 0 < ours.mean() < 128
    assert np.array_equal(ours, aux.nms(edge, 110, 1.5))
    three = np.stack([edge, edge[::-1], edge[:, ::-1]], axis=2)
    assert np.array_equal(nms(three, 110, 1.5), aux.nms(three, 110, 1.5))


def test_what_stays_is_a_maximum_along_some_direction() -> None:
    edge = cv2.GaussianBlur(RNG.integers(0, 256, (24, 20), dtype=np.uint8), (0, 0), 1)
    blurred = cv2.GaussianBlur(edge.astype(np.float32), (0, 0), 1.0)
    thin = nms(edge, 120, 1.0)
    for y in range(1, 23):
        for x in range(1, 19):
            here = blurred[y, x]
            steps = [(0, 1), (1, 0), (1, 1), (1, -1)]
            ridge = any(here >= max(blurred[y + dy, x + dx], blurred[y - dy, x - dx]) for dy, dx in steps)
            assert (thin[y, x] == 255) == (ridge and here > 120)


def test_channels_are_thinned_one_by_one_and_one_stays_one() -> None:
    edge = cv2.GaussianBlur(RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8), (0, 0), 1)
    for channel in range(3):
        alone = nms(edge[..., channel : channel + 1], 120, 1.0)
        assert np.array_equal(alone, nms(edge, 120, 1.0)[..., channel : channel + 1])


def test_thinning_nothing_gives_nothing() -> None:
    assert not nms(np.zeros((32, 32), np.uint8), 127, 3.0).any()


def test_thinning_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="positive sigma"):
        nms(np.zeros((8, 8), np.uint8), 127, 0)
    with pytest.raises(ValueError, match=r"\(0, 8\)"):
        nms(np.zeros((0, 8), np.uint8), 127, 3.0)
