"""Pairing peaks along fields."""

import numpy as np
import pytest

from annotator.openpose import limbs
from annotator.openpose.limbs import find_limbs
from annotator.openpose.resampling import Enlargement
from annotator.openpose.skeleton import LIMBS

LIMB = LIMBS[3]
HEIGHT, WIDTH = 60, 200
PIXELS = Enlargement(np.eye(HEIGHT), np.eye(WIDTH))


def peaks(*points: tuple[float, float], first: int = 0) -> np.ndarray:
    return np.array([(x, y, 1.0, first + i) for i, (x, y) in enumerate(points)]).reshape(-1, 4)


def uniform_field(x: float, y: float) -> np.ndarray:
    fields = np.full((38, HEIGHT, WIDTH), np.nan)  # the other limbs' channels must not be looked at
    fields[LIMB.field] = x
    fields[LIMB.field + 1] = y
    return fields


def test_score_is_the_field_along_the_limb() -> None:
    found = find_limbs(LIMB, peaks((10, 10)), peaks((25, 30), first=1), uniform_field(0.3, 0.5), PIXELS)
    np.testing.assert_allclose(found, [[0, 1, 0.3 * 15 / 25 + 0.5 * 20 / 25]])


def test_limbs_longer_than_half_the_height_lose_score() -> None:
    for length in (30, 40, 50):
        found = find_limbs(LIMB, peaks((10, 10)), peaks((10 + length, 10), first=1), uniform_field(0.9, 0), PIXELS)
        np.testing.assert_allclose(found[0, 2], 0.9 + min(30 / length - 1, 0))
    assert len(find_limbs(LIMB, peaks((0, 10)), peaks((190, 10)), uniform_field(0.5, 0), PIXELS)) == 0


def test_field_against_the_limb_is_none() -> None:
    assert find_limbs(LIMB, peaks((40, 10)), peaks((10, 10)), uniform_field(1, 0), PIXELS).shape == (0, 3)


@pytest.mark.parametrize(("gap", "accepted"), [(1, 1), (2, 0)])
def test_more_than_four_fifths_of_the_points_must_agree(gap: int, accepted: int) -> None:
    fields = uniform_field(1, 0)
    fields[LIMB.field, :, 10 : 10 + gap] = 0  # points lie on the pixels 10, 11, ... 19
    assert len(find_limbs(LIMB, peaks((10, 5)), peaks((19, 5)), fields, PIXELS)) == accepted


def test_peaks_in_one_place_make_no_limb() -> None:
    assert len(find_limbs(LIMB, peaks((10, 10)), peaks((10, 10)), uniform_field(1, 1), PIXELS)) == 0


def test_best_pairs_are_accepted_first_and_each_peak_once() -> None:
    fields = uniform_field(0.2, 0)
    fields[LIMB.field, 10] = 0.9
    fields[LIMB.field, 40] = 0.6
    found = find_limbs(LIMB, peaks((10, 40), (10, 10)), peaks((35, 10), (35, 40), (38, 10), first=2), fields, PIXELS)
    np.testing.assert_array_equal(found[:, :2], [[1, 2], [0, 3]])
    np.testing.assert_allclose(found[:, 2], [0.9, 0.6])


@pytest.mark.parametrize(("starts", "ends"), [(0, 0), (0, 3), (3, 0)])
def test_joints_without_peaks_have_no_limbs(starts: int, ends: int) -> None:
    points = [(10.0, 10.0), (20.0, 20.0), (30.0, 10.0)]
    found = find_limbs(LIMB, peaks(*points[:starts]), peaks(*points[:ends]), uniform_field(1, 1), PIXELS)
    assert found.shape == (0, 3)


def test_pairs_are_scored_alike_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    starts, ends = (peaks(*rng.integers(0, (WIDTH, HEIGHT), size=(12, 2))) for _ in range(2))
    fields = rng.normal(size=(38, HEIGHT, WIDTH)) + 0.6
    at_once = find_limbs(LIMB, starts, ends, fields, PIXELS)
    monkeypatch.setattr(limbs, "PAIRS_AT_ONCE", 7)
    np.testing.assert_array_equal(find_limbs(LIMB, starts, ends, fields, PIXELS), at_once)
    assert len(at_once) > 2
