import cv2
import numpy as np
import pytest

from annotator.canny import CannyDetector

RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Smooth coloured blobs."""
    return cv2.resize(RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8), (192, 128), interpolation=cv2.INTER_CUBIC)


def test_a_square_gives_its_outline() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:48, 16:48] = 255
    edges = CannyDetector()(image, 100, 200)
    assert edges.dtype == np.uint8
    assert edges.shape == (64, 64)
    assert set(np.unique(edges)) == {0, 255}
    assert edges[20:44, 14:18].max(axis=1).all()  # the left side, unbroken
    assert not edges[22:42, 22:42].any()
    assert not edges[:12].any()


def test_map_is_that_of_controlnet_aux(photo: np.ndarray) -> None:
    aux = pytest.importorskip("controlnet_aux.canny")
    theirs = aux.CannyDetector()(photo, 20, 60, detect_resolution=128, image_resolution=128, output_type="np")
    ours = CannyDetector()(photo, 20, 60)
    assert ours.any()
    assert np.array_equal(np.stack([ours] * 3, axis=2), theirs)


def test_higher_thresholds_leave_fewer_edges(photo: np.ndarray) -> None:
    canny = CannyDetector()
    low, high = canny(photo, 10, 20) > 0, canny(photo, 40, 80) > 0
    assert 0 < high.sum() < low.sum()
    assert np.array_equal(canny(photo), canny(photo, 100, 200))


@pytest.mark.parametrize("shape", [(37, 53), (37, 53, 1), (37, 53, 4), (40, 1, 3), (1, 1, 3), (3, 8000, 3)])
def test_any_image_gives_a_map_of_its_size(shape: tuple[int, ...]) -> None:
    assert CannyDetector()(RNG.integers(0, 256, shape, dtype=np.uint8)).shape == shape[:2]


def test_a_constant_image_has_no_edges() -> None:
    assert not CannyDetector()(np.full((32, 32, 3), 200, np.uint8), 1, 1).any()


@pytest.mark.parametrize("beyond_all", [2040, 2**31 - 1, 2**31, 2**40, float("inf")])
def test_thresholds_that_nothing_exceeds_leave_no_edges(photo: np.ndarray, beyond_all: float) -> None:
    assert not CannyDetector()(photo, beyond_all, beyond_all).any()
    assert not CannyDetector()(photo, 0, beyond_all).any()


def test_what_makes_no_sense_is_refused(photo: np.ndarray) -> None:
    with pytest.raises(ValueError, match="dtype float64"):
        CannyDetector()(photo / 255)
    with pytest.raises(ValueError, match="at least 0, got -1 and 200"):
        CannyDetector()(photo, -1, 200)
    with pytest.raises(ValueError, match="nan"):
        CannyDetector()(photo, 100, float("nan"))
    with pytest.raises(ValueError, match=r"no weights to load, got checkpoint='canny\.pth'"):
        CannyDetector(checkpoint="canny.pth")
