"""Control maps of the miniature's scenes: each shows the shape, where it is."""

import cv2
import numpy as np
import pytest

from cldm.shapes import OUTLINES, Scene, sample_scene
from training.mini.maps import MAPS, ROUND, SIZE, shows

SCENES = [Scene(shape, "gold", "navy", (0.45, 0.55), 0.3, 0.4) for shape in OUTLINES]


def near_outline(scene: Scene, pixels: int) -> np.ndarray:
    return cv2.dilate(scene.outline(SIZE)[..., 0], np.ones((2 * pixels + 1, 2 * pixels + 1))) > 0


@pytest.mark.parametrize("kind", MAPS)
def test_a_map_is_an_image_and_the_same_for_the_same_chance(kind):
    for scene in SCENES:
        plain = MAPS[kind](scene, None)
        assert plain.shape == (SIZE, SIZE, 3)
        assert plain.dtype == np.uint8
        assert np.array_equal(plain, MAPS[kind](scene, None))
        first, again, other = (MAPS[kind](scene, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert np.array_equal(first, again)
        assert first.any()
        assert other.any()


@pytest.mark.parametrize(("kind", "distance"), [("canny", 2), ("hough", 4), ("hed", 8), ("scribble", 10)])
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_lines_are_where_the_outline_is(kind, distance, seed):
    for scene in SCENES:
        drawn = MAPS[kind](scene, None if seed is None else np.random.default_rng(seed))[..., 0] > 20
        assert not drawn[~near_outline(scene, distance)].any()


def test_the_plain_edge_map_is_the_outline():
    for scene in SCENES:
        assert np.array_equal(MAPS["canny"](scene, None), scene.outline(SIZE))


def test_segments_are_the_shape_and_the_rest():
    for scene in SCENES:
        for seed in (None, 0, 1):
            segments = MAPS["seg"](scene, None if seed is None else np.random.default_rng(seed))
            inside = scene.mask(SIZE) > 0.5
            assert len(np.unique(segments[inside], axis=0)) == len(np.unique(segments[~inside], axis=0)) == 1
            assert np.abs(segments[inside][0].astype(int) - segments[~inside][0]).max() >= 48


def test_the_shape_is_nearer_than_the_background():
    for scene in SCENES:
        for seed in (None, 0, 1):
            depth = MAPS["depth"](scene, None if seed is None else np.random.default_rng(seed))[..., 0]
            assert (
                depth[scene.mask(SIZE) > 0.99].mean()
                > 2 * depth[~near_outline(scene, 6) & (scene.mask(SIZE) < 0.01)].mean()
            )


def test_normals_have_z_first_and_the_background_faces_the_camera():
    for scene in SCENES:
        normals = MAPS["normal"](scene, None)
        far = (scene.mask(SIZE) == 0) & ~near_outline(scene, 4)
        assert (normals[far] == (255, 127, 127)).all()
        directions = normals.astype(float) / 127.5 - 1
        assert np.allclose(np.linalg.norm(directions, axis=2), 1, atol=0.02)


def test_a_stick_figure_stays_inside_its_shape_and_reaches_its_corners():
    for scene in SCENES:
        figure = MAPS["pose"](scene, None).any(axis=2)
        allowed = (scene.mask(SIZE) > 0) | near_outline(scene, 2)
        assert not figure[~allowed].any()
        assert figure[near_outline(scene, 2)].any()


def test_only_shapes_with_straight_sides_have_a_map_of_lines():
    assert {scene.shape for scene in SCENES if not shows("hough", scene)} == set(ROUND)
    assert all(shows(kind, scene) for kind in MAPS if kind != "hough" for scene in SCENES)


def test_pale_on_pale_still_has_edges():
    rng = np.random.default_rng(0)
    for _ in range(100):
        assert MAPS["canny"](sample_scene(rng), rng).any()
