from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import annotator.mlsd
from annotator.mlsd import FILES, MLSDdetector, decode
from annotator.util import resize_to_multiple
from parity import assert_same_map, filled_state_dict, golden, published_names

RNG = np.random.default_rng(4)


def blobs(height: int, width: int) -> np.ndarray:
    coarse = RNG.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights by their names, but lines of some twenty pixels instead of one."""
    state = filled_state_dict(published_names(FILES["large"]))
    for name in ("block23.conv3.weight", "block23.conv3.bias"):
        state[name][8:12] *= 40  # the displacements
    path = tmp_path_factory.mktemp("mlsd") / FILES["large"]
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def mlsd(checkpoint: Path) -> MLSDdetector:
    return MLSDdetector(checkpoint, device="cpu")


# Decoding


def test_decoded_lines_are_the_golden_ones() -> None:
    arrays = golden("mlsd_decode")
    lines = decode(torch.from_numpy(arrays["tpmap"])[0], float(arrays["score_thr"]), float(arrays["dist_thr"]))
    scale = np.tile(arrays["image_hw"][::-1] / arrays["input_hw"][::-1], 2)
    ours, expected = (np.array(sorted(map(tuple, a))) for a in (lines.numpy() * scale, arrays["lines"]))
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() < 1e-4 * expected.max()


def one_segment(logit: float = 4.0, length: float = 10.0) -> torch.Tensor:
    """A map of 20 x 30 (h x w) with a horizontal line around the centre x 15, y 8."""
    segments = torch.zeros(9, 20, 30)
    segments[0] = -20
    segments[:5, 8, 15] = torch.tensor([logit, -length / 2, 0, length / 2, 0])
    return segments


def test_a_segment_is_read_at_twice_the_size_of_the_map() -> None:
    assert decode(one_segment(), 0.1, 5).tolist() == [[20, 16, 40, 16]]


def test_thresholds_are_exclusive() -> None:
    assert len(decode(one_segment(length=10), 0.1, 9.9)) == 1
    assert len(decode(one_segment(length=10), 0.1, 10)) == 0
    assert len(decode(one_segment(logit=0), 0.49, 0)) == 1
    assert len(decode(one_segment(logit=0), 0.5, 0)) == 0


def test_only_the_peak_of_neighbours_counts_and_the_best_come_first() -> None:
    segments = one_segment()
    segments[:5, 9, 16] = torch.tensor([3.9, -5, 0, 5, 0])  # next to the peak
    segments[:5, 11, 15] = torch.tensor([3.8, -6, 0, 6, 0])  # a peak of its own
    assert decode(segments, 0.1, 5).tolist() == [[20, 16, 40, 16], [18, 22, 42, 22]]


def test_there_are_at_most_200_lines() -> None:
    segments = torch.zeros(9, 64, 64)
    segments[0] = -20
    segments[0, ::2, ::2] = torch.linspace(0, 5, 32 * 32).view(32, 32)
    segments[3] = 9
    lines = decode(segments, 0.1, 5)
    assert len(lines) == 200
    assert lines[0].tolist() == [124, 124, 142, 124]  # the best, the last of them


def test_a_map_of_few_pixels_decodes() -> None:
    assert decode(torch.zeros(9, 2, 3), 0.1, 0.1).shape == (0, 4)


# The detector


def test_map_is_that_of_controlnet_aux(mlsd: MLSDdetector, checkpoint: Path) -> None:
    aux = pytest.importorskip("controlnet_aux.mlsd")
    network = aux.MobileV2_MLSD_Large()
    network.load_state_dict(torch.load(checkpoint))
    image = blobs(192, 128)
    theirs = aux.MLSDdetector(network.eval())(
        image, 0.3, 5.0, detect_resolution=128, image_resolution=128, output_type="np"
    )
    ours = mlsd(image, 0.3, 5.0)
    assert 0.02 < (ours > 0).mean() < 0.5
    assert_same_map(ours, theirs[:, :, 0])


def test_positional_thresholds_mean_value_and_distance(mlsd: MLSDdetector) -> None:
    image = blobs(64, 96)
    assert np.array_equal(mlsd(image, 0.45, 8.0), mlsd(image, distance=8.0, value=0.45))
    assert np.array_equal(mlsd(image), mlsd(image, 0.1, 0.1))
    assert len(mlsd.lines(image, 0.1, 0.1)) > len(mlsd.lines(image, 0.45, 0.1)) > 0
    assert len(mlsd.lines(image, 0.1, 0.1)) > len(mlsd.lines(image, 0.1, 12.0)) > 0


def test_lines_of_other_sizes_are_scaled_back(mlsd: MLSDdetector) -> None:
    image = blobs(99, 71)
    fitted = resize_to_multiple(image, 16)
    assert fitted.shape == (96, 64, 3)
    expected = mlsd.lines(fitted, 0.1, 5.0) * [71 / 64, 99 / 96, 71 / 64, 99 / 96]
    lines = mlsd.lines(image, 0.1, 5.0)
    assert len(lines) > 3
    assert np.allclose(lines, expected)
    assert mlsd(image, 0.1, 5.0).shape == (99, 71)


def test_large_images_are_seen_smaller(mlsd: MLSDdetector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotator.mlsd, "_MOST_PIXELS", 64 * 96)
    seen = []
    with mlsd.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape)):
        lines = mlsd.lines(blobs(128, 192), 0.1, 5.0)
    assert seen == [(1, 4, 64, 96)]
    assert lines[:, 0].max() > 110  # in pixels of the image given


def test_the_tiny_network_loads_and_draws(filled_checkpoint: Callable[[str], Path]) -> None:
    tiny = MLSDdetector(filled_checkpoint(FILES["tiny"]), device="cpu", size="tiny")
    drawn = tiny(blobs(64, 96), 0.1, 0.0)
    assert set(np.unique(drawn)) == {0, 255}


@pytest.mark.parametrize("shape", [(37, 53, 3), (70, 50), (48, 32, 4), (40, 1, 3), (1, 1, 3), (5, 8000, 3)])
def test_any_image_gives_a_map_of_its_size(mlsd: MLSDdetector, shape: tuple[int, ...]) -> None:
    drawn = mlsd(RNG.integers(0, 256, shape, dtype=np.uint8))
    assert drawn.shape == shape[:2]
    assert drawn.dtype == np.uint8


def test_no_line_is_a_black_map(mlsd: MLSDdetector) -> None:
    assert mlsd.lines(blobs(64, 64), 1.0, 0.1).shape == (0, 4)
    assert not mlsd(blobs(64, 64), 1.0, 0.1).any()


def test_a_constant_image_gives_a_finite_answer(mlsd: MLSDdetector) -> None:
    assert np.isfinite(mlsd.lines(np.full((64, 64, 3), 77, np.uint8), 0.0, 0.0)).all()


def test_an_output_that_is_not_finite_is_refused(mlsd: MLSDdetector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlsd, "network", lambda x: torch.full((1, 9, 32, 32), torch.nan))
    with pytest.raises(ValueError, match="not finite"):
        mlsd(blobs(64, 64))


def test_bad_input_is_one_clear_error(mlsd: MLSDdetector, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype int64"):
        mlsd(np.zeros((64, 64, 3), np.int64))
    with pytest.raises(ValueError, match="empty"):
        mlsd(np.zeros((64, 0, 3), np.uint8))
    with pytest.raises(ValueError, match=r"value -0\.1 and distance 1"):
        mlsd(blobs(64, 64), -0.1, 1)
    with pytest.raises(ValueError, match=r"\['large', 'tiny'\], got 'huge'"):
        MLSDdetector(checkpoint, size="huge")
    with pytest.raises(ValueError, match="no checkpoint of MLSDTiny"):
        MLSDdetector(checkpoint, size="tiny")
    with pytest.raises(FileNotFoundError, match=r"mlsd_tiny_512_fp32\.pth .*`python tool_download\.py mlsd_tiny --to "):
        MLSDdetector(tmp_path, size="tiny")
