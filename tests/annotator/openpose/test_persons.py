"""Persons from network outputs: the golden file, controlnet_aux, and the rules of assembly one by one."""

from collections.abc import Callable

import numpy as np
import pytest

from annotator.openpose.persons import find_persons, group
from annotator.openpose.skeleton import JOINTS, LIMBS
from openpose_scenes import FIGURE, crowd, figure, network_outputs
from parity import golden

SCENES = {
    "nobody": ([], 184, 248),
    "one": (crowd(1, 368, 496), 368, 496),
    "two": (crowd(2, 400, 300), 400, 300),
    "ten": (crowd(10, 512, 768), 512, 768),
    "in each other's arms": ([figure(130, 20, 300, 1), figure(165, 30, 290, 2), figure(210, 10, 310, 3)], 368, 368),
    "one behind the other": ([figure(200, 40, 250, 4), figure(200, 20, 330, 5)], 368, 400),
    "cut off on all sides": (
        [figure(10, 30, 260, 6), figure(390, 60, 250, 7), figure(200, -60, 240, 8), figure(280, 150, 260, 9)],
        300,
        400,
    ),
    "small image": (crowd(2, 120, 160), 120, 160),
    "odd sides": (crowd(4, 277, 401), 277, 401),
    "upright strip": ([figure(30, 20, 160, 10), figure(30, 240, 150, 11)], 420, 60),
    "panorama": ([figure(80 + 150 * i, 10, 180, 20 + i) for i in range(6)], 200, 1000),
}


def outputs(scene: str) -> tuple[np.ndarray, np.ndarray, int, int]:
    people, height, width = SCENES[scene]
    return *network_outputs(people, height, width), height, width


def test_golden_persons() -> None:
    expected = golden("openpose_assembly")
    candidates, persons = find_persons(expected["paf"][0], expected["heatmap"][0], *expected["image_hw"].tolist())
    np.testing.assert_allclose(candidates, expected["candidate"], atol=1e-5)
    np.testing.assert_allclose(persons, expected["subset"], atol=1e-5)


@pytest.mark.parametrize("scene", SCENES)
def test_persons_are_those_of_controlnet_aux(scene: str, their_persons: Callable, theirs_cubic: None) -> None:
    candidates, persons = find_persons(*outputs(scene))
    their_candidates, their_subset = their_persons(*outputs(scene))
    np.testing.assert_allclose(candidates, their_candidates.reshape(-1, 4), atol=1e-5)
    np.testing.assert_allclose(persons, their_subset, atol=1e-5)
    assert (len(persons) == 0) == (scene == "nobody")


@pytest.mark.parametrize(
    ("seed", "noise"), [(0, 0.06), (1, 0.07), *(pytest.param(seed, 0.15, marks=pytest.mark.slow) for seed in range(4))]
)
def test_persons_are_those_of_controlnet_aux_in_noise(
    seed: int, noise: float, their_persons: Callable, theirs_cubic: None
) -> None:
    rng = np.random.default_rng(seed)
    people = [figure(rng.uniform(0, 250), rng.uniform(-20, 60), rng.uniform(90, 180), seed=i) for i in range(4)]
    fields, heatmaps = network_outputs(people, 184, 248, noise=noise)
    candidates, persons = find_persons(fields, heatmaps, 184, 248)
    their_candidates, their_subset = their_persons(fields, heatmaps, 184, 248)
    assert len(candidates) > 2 * 4 * 18  # more peaks than joints
    np.testing.assert_allclose(candidates, their_candidates, atol=1e-5)
    np.testing.assert_allclose(persons, their_subset, atol=1e-5)


@pytest.mark.parametrize("scene", ["one", "two", "ten", "cut off on all sides"])
def test_persons_are_those_of_controlnet_aux_untouched_up_to_its_interpolation(
    scene: str, their_persons: Callable
) -> None:
    ours = poses(*find_persons(*outputs(scene)))
    theirs = poses(*their_persons(*outputs(scene)))
    assert len(ours) == len(theirs)
    cell = 8 * SCENES[scene][1] / 184  # in pixels
    distances = []
    for pose in ours:
        to_theirs = [np.linalg.norm(pose - other, axis=1) for other in theirs]
        closest = min(to_theirs, key=np.nanmax)
        np.testing.assert_array_equal(np.isnan(closest), np.isnan(pose[:, 0]))
        distances.extend(closest[~np.isnan(closest)])
    assert np.mean(np.array(distances) <= 1.5) > 0.98  # blobs that ripple may have their highest peak elsewhere
    assert max(distances) < cell


def poses(candidates: np.ndarray, persons: np.ndarray) -> list[np.ndarray]:
    """Per person x and y of the joints, (18, 2), NaN where missing."""
    joints = persons[:, : len(JOINTS)].astype(int)
    return list(np.where(joints[..., None] >= 0, candidates[joints, :2], np.nan))


def test_figures_are_found_where_they_stand() -> None:
    people, height, _ = SCENES["ten"]
    found = poses(*find_persons(*outputs("ten")))
    assert len(found) == 10
    for person in people:
        assert min(np.abs(pose - person).max() for pose in found) < 8 * height / 184  # one cell


def limbs_of(*connections: tuple[str, str, int, int, float]) -> list[np.ndarray]:
    """For each limb its connections, from (start joint, end joint, start peak, end peak, score)."""
    return [
        np.array(
            [
                (a, b, score)
                for start, end, a, b, score in connections
                if (JOINTS.index(start), JOINTS.index(end)) == (limb.start, limb.end)
            ]
        ).reshape(-1, 3)
        for limb in LIMBS
    ]


RIGHT_ARM = (
    ("neck", "right shoulder", 0, 1, 0.9),
    ("right shoulder", "right elbow", 1, 2, 0.8),
    ("right elbow", "right wrist", 2, 3, 0.7),
)


def test_score_sums_peaks_and_limbs() -> None:
    persons = group(np.array([0.5, 0.6, 0.7, 0.8]), limbs_of(*RIGHT_ARM))
    assert persons.shape == (1, 20)
    np.testing.assert_allclose(persons[0, -2:], [0.5 + 0.6 + 0.7 + 0.8 + 0.9 + 0.8 + 0.7, 4])
    by_joint = dict(zip(JOINTS, persons[0], strict=False))
    assert [by_joint[f"right {joint}"] for joint in ("shoulder", "elbow", "wrist")] == [1, 2, 3]
    assert (persons[0, :18] >= 0).sum() == 4


def test_fewer_than_four_parts_are_no_person() -> None:
    assert len(group(np.ones(4), limbs_of(*RIGHT_ARM[:2]))) == 0


@pytest.mark.parametrize(("peak_score", "count"), [(0.26, 1), (0.24, 0)])
def test_mean_score_must_reach_four_tenths(peak_score: float, count: int) -> None:
    weak = [(*limb[:4], 0.2) for limb in RIGHT_ARM]  # 3 * 0.2 of the 1.6 that four parts need
    assert len(group(np.full(4, peak_score), limbs_of(*weak))) == count


def test_limbs_from_shoulder_to_ear_extend_persons_and_start_none() -> None:
    ear = ("right shoulder", "right ear", 1, 4, 0.9)
    person = group(np.ones(5), limbs_of(*RIGHT_ARM, ear))[0]
    assert person[JOINTS.index("right ear")] == 4
    assert person[-1] == 5
    enough = [("neck", "nose", 10, 11, 1), ("nose", "right eye", 11, 12, 1), ("right eye", "right ear", 12, 13, 1)]
    strangers_ear = ("right shoulder", "right ear", 14, 15, 1)
    assert len(group(np.ones(16), limbs_of(*enough, strangers_ear))) == 1


def test_disjoint_persons_who_share_a_limb_merge() -> None:
    face = (("nose", "right eye", 4, 5, 0.6), ("right eye", "right ear", 5, 6, 0.6))
    late = ("right shoulder", "right ear", 1, 6, 0.5)
    persons = group(np.ones(7), limbs_of(*RIGHT_ARM, *face, late))
    assert len(persons) == 1
    np.testing.assert_allclose(persons[0, -2:], [7 + 0.9 + 0.8 + 0.7 + 1.2 + 0.5, 7])
    assert (persons[0, :18] >= 0).sum() == 7


def test_persons_who_both_have_a_joint_do_not_merge() -> None:
    other = (
        ("neck", "left shoulder", 10, 11, 0.9),
        ("left shoulder", "left elbow", 11, 12, 0.9),
        ("left elbow", "left wrist", 12, 13, 0.9),
        ("neck", "nose", 10, 14, 0.9),
        ("nose", "right eye", 14, 15, 0.9),
        ("right eye", "right ear", 15, 16, 0.9),
    )
    contested = ("right shoulder", "right ear", 1, 16, 0.9)
    persons = group(np.ones(17), limbs_of(*RIGHT_ARM, *other, contested))
    assert len(persons) == 2
    assert (persons[:, JOINTS.index("neck")] == [0, 10]).all()
    assert (persons[:, JOINTS.index("right ear")] == 16).all()  # as in the original, both keep it


def test_outputs_of_another_image_are_refused() -> None:
    fields, heatmaps, height, width = outputs("one")
    with pytest.raises(ValueError, match=r"300x100 pixels has fields \(38, 23, 8\) and .*got \(38, 23, 31\)"):
        find_persons(fields, heatmaps, 300, 100)
    with pytest.raises(ValueError, match=r"heat maps \(19, 23, 31\), got \(38, 23, 31\) and \(18, 23, 31\)"):
        find_persons(fields, heatmaps[:18], height, width)


def test_figure_has_every_joint() -> None:
    assert FIGURE.shape == (len(JOINTS), 2)
