"""Control maps of the miniature's scenes, one for every kind of map that the apps make.

Each is drawn as its detector would see the scene, as far as a world of plain shapes has it: with a generator, the ways
in which a detector or a hand varies are drawn from it; without one, the map is the plainest of its kind.
"""

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from annotator.midas import depth_map, normal_map
from annotator.openpose.drawing import draw_skeletons
from annotator.openpose.skeleton import JOINTS
from annotator.uniformer.ade20k import CLASSES
from cldm.shapes import LEAST_CONTRAST, OUTLINES, Scene

SIZE = 128
ROUND = ("circle", "ellipse", "heart")
"""Shapes without straight sides, of which there is no map of lines."""

_CANNY_THRESHOLDS = (100, 200)  # the Canny app's
_DEPTH_UNITS = 1000.0  # what MiDaS's inverse depth spans in pictures, roughly
_NORMAL_LENGTH, _NORMAL_BACKGROUND = 2 * np.pi, 0.4  # the normal app's
_FAKE_SCRIBBLE_SIGMA, _FAKE_SCRIBBLE_THRESHOLD = 3.0, 4  # likewise
_DRAWN_SIZE = 512  # of a stick figure, before it is shrunk as the pose app does

Chance = np.random.Generator | None


def canny(scene: Scene, chance: Chance = None) -> np.ndarray:
    """The outline, or the edges that Canny's detector finds in the picture."""
    if chance is None:
        return scene.outline(SIZE)
    outline = scene.outline(SIZE, width=int(chance.integers(1, 3)))
    if chance.random() < 0.5:
        return outline
    edges = cv2.Canny(scene.image(SIZE), *_CANNY_THRESHOLDS)
    seen = cv2.countNonZero(edges) > 0.9 * cv2.countNonZero(outline[..., 0]) / 2
    return _grey(edges) if seen else outline  # pale on pale has no edges


def hough(scene: Scene, chance: Chance = None) -> np.ndarray:
    """Straight sides, one pixel wide, a little too long or too short."""
    corners = scene.polygon(SIZE)
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        a, b = (0.0, 0.0) if chance is None else chance.uniform(-0.06, 0.06, 2)
        _line(canvas, [start + a * (end - start), end + b * (end - start)], width=1)
    return _grey(canvas)


def hed(scene: Scene, chance: Chance = None) -> np.ndarray:
    """The outline, soft and brightest in the middle."""
    width, sigma, peak = (3, 1.0, 255.0) if chance is None else chance.uniform((1, 0.7, 140), (5, 2.0, 255))
    line = cv2.GaussianBlur(scene.outline(SIZE, round(width))[..., 0].astype(np.float32), (0, 0), sigma)
    return _grey((line / line.max() * peak).astype(np.uint8))


def scribble(scene: Scene, chance: Chance = None) -> np.ndarray:
    """The outline as a hand draws it: wide, and not quite where it should be."""
    if chance is None:
        return scene.outline(SIZE, width=3)
    points = _resampled(scene.polygon(SIZE))
    waves = sum(chance.normal(size=2) * np.sin(k * _turn(points)[:, None] + chance.uniform(0, 7, 2)) for k in (1, 2, 5))
    points = points + chance.uniform(0, 0.8) * waves
    missing = int(chance.integers(0, 12))  # points of the gap between a stroke's start and end
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    _line(
        canvas, np.roll(points, int(chance.integers(len(points))), axis=0)[missing:], width=int(chance.integers(1, 6))
    )
    return _grey(canvas)


def fake_scribble(scene: Scene, chance: Chance = None) -> np.ndarray:
    """A broad band, as the app makes of thinned soft edges."""
    sigma = _FAKE_SCRIBBLE_SIGMA if chance is None else chance.uniform(1.0, _FAKE_SCRIBBLE_SIGMA)
    ridge = scene.outline(SIZE, width=1)[..., 0]
    blurred = cv2.GaussianBlur(ridge, (0, 0), sigma)
    return _grey(np.where(blurred > _FAKE_SCRIBBLE_THRESHOLD, 255, 0).astype(np.uint8))


def pose(scene: Scene, chance: Chance = None) -> np.ndarray:
    """A stick figure inside the shape: the neck in its middle, nose, hands and feet at its corners."""
    neck = np.array(scene.centre) * _DRAWN_SIZE - 0.5
    tips = _tips(scene)
    if chance is not None:
        tips = tips + chance.normal(0, 0.005 * _DRAWN_SIZE, tips.shape)
    places = {"neck": neck}
    for limb, tip in zip(_EXTREMITIES, tips, strict=False):
        for number, joint in enumerate(limb, start=1):
            places[joint] = neck + (tip - neck) * number / len(limb)
    joints = list(places)
    candidates = np.array([[*places[joint], 1.0, number] for number, joint in enumerate(joints)])
    person = np.full((1, len(JOINTS) + 2), -1.0)
    person[0, [JOINTS.index(joint) for joint in joints]] = range(len(joints))
    figure = draw_skeletons(np.zeros((_DRAWN_SIZE, _DRAWN_SIZE, 3), np.uint8), candidates, person)
    return cv2.resize(figure, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)


def seg(scene: Scene, chance: Chance = None) -> np.ndarray:
    """Two flat segments in the colours of two classes of ADE20K."""
    background, shape = (np.array(CLASSES[i][1], np.uint8) for i in _two_classes(chance))
    return np.where(scene.mask(SIZE)[..., None] > 0.5, shape, background)


def depth(scene: Scene, chance: Chance = None) -> np.ndarray:
    """The shape stands before the background, flat or vaulted: the nearer, the brighter."""
    return _grey(depth_map(_inverse_depth(scene, chance)))


def normal(scene: Scene, chance: Chance = None) -> np.ndarray:
    """The directions of the same surface, as the network sees them: z first."""
    return normal_map(_inverse_depth(scene, chance), _NORMAL_LENGTH, _NORMAL_BACKGROUND)[..., ::-1].copy()


MAPS: Mapping[str, Callable[[Scene, Chance], np.ndarray]] = {
    "canny": canny,
    "hough": hough,
    "hed": hed,
    "scribble": scribble,
    "fake_scribble": fake_scribble,
    "pose": pose,
    "seg": seg,
    "depth": depth,
    "normal": normal,
}
"""By the apps' names: a scene, and a generator or None, to a map, uint8 RGB (128, 128, 3)."""


def shows(kind: str, scene: Scene) -> bool:
    """Whether there is such a map of the scene."""
    return kind != "hough" or scene.shape not in ROUND


_EXTREMITIES = (
    ("nose",),
    ("left shoulder", "left elbow", "left wrist"),
    ("left hip", "left knee", "left ankle"),
    ("right hip", "right knee", "right ankle"),
    ("right shoulder", "right elbow", "right wrist"),
)


def _two_classes(chance: Chance) -> tuple[int, int]:
    """Two classes whose colours can be told apart; a wall and a car without chance."""
    first, second = 0, 20
    while chance is not None:
        first, second = (int(i) for i in chance.integers(len(CLASSES), size=2))
        if np.abs(np.subtract(CLASSES[first][1], CLASSES[second][1])).max() >= LEAST_CONTRAST:
            break
    return first, second


def _tips(scene: Scene) -> np.ndarray:
    """Up to five points of the outline, clockwise from the highest, in pixels of the drawing."""
    points = scene.polygon(_DRAWN_SIZE)
    count = len(OUTLINES[scene.shape])
    if scene.shape == "star":
        chosen = points[::2]
    elif count <= 6:
        chosen = points[:5]
    else:
        parts = 4 if scene.shape in ("ellipse", "cross") else 5
        offset = 0.5 if scene.shape == "cross" else 0  # the middle of an arm's end
        places = (np.arange(parts) + offset) * count / parts
        chosen = (points[np.floor(places).astype(int) % count] + points[np.ceil(places).astype(int) % count]) / 2
    first = int(chosen[:, 1].argmin())
    return np.roll(chosen, -first, axis=0)


def _inverse_depth(scene: Scene, chance: Chance) -> np.ndarray:
    """A vaulted shape before a background that may slope, float32 (128, 128)."""
    vault, rise, slope, sigma = (
        (0.35, 0.6, 0.2, 0.8) if chance is None else chance.uniform((0, 0.4, 0, 0.4), (0.5, 0.8, 0.3, 1.6))
    )
    mask = scene.mask(SIZE)
    inside = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    dome = np.sqrt(1 - (1 - inside / inside.max()) ** 2)
    direction = np.pi / 2 if chance is None else chance.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:SIZE, :SIZE] / (SIZE - 1) - 0.5
    background = slope * (0.5 + (np.cos(direction) * x + np.sin(direction) * y) / np.sqrt(2))
    surface = background * (1 - mask) + (rise + vault * dome) * mask
    return cv2.GaussianBlur(surface, (0, 0), sigma).astype(np.float32) * _DEPTH_UNITS


def _resampled(points: np.ndarray, count: int = 120) -> np.ndarray:
    """A closed outline by `count` points at even distances."""
    closed = np.concatenate([points, points[:1]])
    along = np.concatenate([[0], np.linalg.norm(np.diff(closed, axis=0), axis=1).cumsum()])
    wanted = np.linspace(0, along[-1], count, endpoint=False)
    return np.stack([np.interp(wanted, along, closed[:, axis]) for axis in (0, 1)], axis=1)


def _turn(points: np.ndarray) -> np.ndarray:
    return np.linspace(0, 2 * np.pi, len(points), endpoint=False)


def _line(canvas: np.ndarray, points: np.ndarray | list[np.ndarray], width: int) -> None:
    """Draw an open line in white, in place."""
    cv2.polylines(canvas, [np.rint(np.array(points) * 16).astype(np.int32)], False, 255, width, cv2.LINE_8, 4)


def _grey(canvas: np.ndarray) -> np.ndarray:
    """One channel as three."""
    return np.repeat(canvas[..., None], 3, axis=2)
