"""A world of coloured shapes on plain backgrounds, each scene with its prompt and its outline.

Fill50K's circles belong to it, and so does everything that the miniature Stable Diffusion is trained on.
Colours are the CSS colour names, spelled as words: "light coral star with navy background".
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import ImageColor

_COLOUR_WORDS = """
alice blue, antique white, aquamarine, azure, beige, bisque, black, blanched almond, blue, blue violet, brown,
burly wood, cadet blue, chartreuse, chocolate, coral, cornflower blue, cornsilk, crimson, cyan, dark blue, dark cyan,
dark golden rod, dark gray, dark green, dark khaki, dark magenta, dark olive green, dark orange, dark orchid,
dark red, dark salmon, dark sea green, dark slate blue, dark slate gray, dark turquoise, dark violet, deep pink,
deep sky blue, dim gray, dodger blue, fire brick, floral white, forest green, gainsboro, ghost white, gold,
golden rod, gray, green, green yellow, honey dew, hot pink, indian red, indigo, ivory, khaki, lavender,
lavender blush, lawn green, lemon chiffon, light blue, light coral, light cyan, light golden rod yellow, light gray,
light green, light pink, light salmon, light sea green, light sky blue, light slate gray, light steel blue,
light yellow, lime, lime green, linen, magenta, maroon, medium aquamarine, medium blue, medium orchid,
medium purple, medium sea green, medium slate blue, medium spring green, medium turquoise, medium violet red,
midnight blue, mint cream, misty rose, moccasin, navajo white, navy, old lace, olive, olive drab, orange, orange red,
orchid, pale golden rod, pale green, pale turquoise, pale violet red, papaya whip, peach puff, peru, pink, plum,
powder blue, purple, rebecca purple, red, rosy brown, royal blue, saddle brown, salmon, sandy brown, sea green,
sea shell, sienna, silver, sky blue, slate blue, slate gray, snow, spring green, steel blue, tan, teal, thistle,
tomato, turquoise, violet, wheat, white, white smoke, yellow, yellow green
"""

COLOURS: dict[str, tuple[int, int, int]] = {
    words: ImageColor.getrgb(words.replace(" ", "")) for words in " ".join(_COLOUR_WORDS.split()).split(", ")
}
"""CSS colour name in words -> (red, green, blue), 0 to 255."""

LEAST_CONTRAST = 48
"""In some channel, out of 255: what a shape's colour differs from its background at least, so that it can be seen."""

_SUPERSAMPLED_SIDE = 1024  # masks are filled at about this size, then averaged: exact coverage to 1/64 and better
_HELD_OUT_SHARE = 16  # one combination of shape and colours in so many is kept from training


def _regular(corners: int, inner: float = 1.0) -> np.ndarray:
    """A regular polygon with a corner up, or with `inner` < 1 a star of so many points."""
    radii = np.array([1.0, inner]) if inner < 1 else np.array([1.0])
    angle = np.linspace(0, 2 * np.pi, corners * len(radii), endpoint=False)
    radius = np.tile(radii, corners)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    points = np.stack([x, y - (y.min() + y.max()) / 2], axis=1)
    return points / np.linalg.norm(points, axis=1).max()


def _cross(arm: float = 0.36) -> np.ndarray:
    a = arm
    points = [
        (-a, -1),
        (a, -1),
        (a, -a),
        (1, -a),
        (1, a),
        (a, a),
        (a, 1),
        (-a, 1),
        (-a, a),
        (-1, a),
        (-1, -a),
        (-a, -a),
    ]
    return np.array(points) / np.hypot(1, arm)


_CIRCLE = _regular(128)
_SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / np.sqrt(2)

OUTLINES: dict[str, np.ndarray] = {
    "circle": _CIRCLE,
    "ellipse": _CIRCLE * (1, 0.6),
    "square": _SQUARE,
    "rectangle": np.array([(-1, -0.5), (1, -0.5), (1, 0.5), (-1, 0.5)]) / np.hypot(1, 0.5),
    "triangle": _regular(3),
    "diamond": np.array([(0, -1), (0.62, 0), (0, 1), (-0.62, 0)]),
    "pentagon": _regular(5),
    "hexagon": _regular(6),
    "star": _regular(5, inner=0.45),
    "cross": _cross(),
    "heart": _heart(),
}
"""Shape name -> its outline, points (n, 2) inside the unit circle, y downwards."""


@dataclass(frozen=True)
class Scene:
    """One shape on a plain background.

    Attributes:
        shape: A key of `OUTLINES`.
        colour: The shape's colour, a key of `COLOURS`.
        background: The background's colour, a key of `COLOURS`.
        centre: Of the shape, (x, y) as shares of the image's side.
        radius: Of the circle round the shape, as a share of the image's side.
        angle: Rotation, in radians, clockwise.
    """

    shape: str
    colour: str
    background: str
    centre: tuple[float, float]
    radius: float
    angle: float = 0.0

    @property
    def prompt(self) -> str:
        return f"{self.colour} {self.shape} with {self.background} background"

    def mask(self, size: int) -> np.ndarray:
        """Share of each pixel that the shape covers, float32 (size, size) in [0, 1]."""
        factor = max(2, _SUPERSAMPLED_SIDE // size)
        fine = np.zeros((size * factor, size * factor), np.uint8)
        cv2.fillPoly(fine, [self._points(size * factor)], 255, shift=_SUBPIXEL_BITS)
        return cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255

    def image(self, size: int) -> np.ndarray:
        """The filled shape on its background, uint8 RGB (size, size, 3)."""
        mask = self.mask(size)[..., None]
        colours = np.array([COLOURS[self.background], COLOURS[self.colour]], np.float32)
        return np.rint(colours[0] * (1 - mask) + colours[1] * mask).astype(np.uint8)

    def outline(self, size: int, width: int | None = None) -> np.ndarray:
        """The shape's outline, white on black, uint8 RGB (size, size, 3); `width` in pixels, by default size / 256."""
        canvas = np.zeros((size, size, 3), np.uint8)
        width = max(1, round(size / 256)) if width is None else width
        cv2.polylines(canvas, [self._points(size)], True, (255, 255, 255), width, cv2.LINE_8, _SUBPIXEL_BITS)
        return canvas

    def polygon(self, size: int) -> np.ndarray:
        """Points (n, 2) of the outline, x and y in pixels of an image of that size, counted from pixel centres."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        rotated = OUTLINES[self.shape] @ np.array([[cos, sin], [-sin, cos]])
        return (np.array(self.centre) + self.radius * rotated) * size - 0.5

    def _points(self, size: int) -> np.ndarray:
        """The outline in an image of that size, fixed-point integers (n, 2) as OpenCV's drawing takes them."""
        return np.rint(self.polygon(size) * 2**_SUBPIXEL_BITS).astype(np.int32)


_SUBPIXEL_BITS = 4


def held_out(prompt: str) -> bool:
    """Whether a combination of shape and colours is kept for evaluation; decided by the prompt alone."""
    return zlib.crc32(prompt.encode()) % _HELD_OUT_SHARE == 0


def visible(colour: str, background: str) -> bool:
    """Whether two colours differ enough, in some channel, for a shape to be seen."""
    difference = np.subtract(COLOURS[colour], COLOURS[background])
    return bool(np.abs(difference).max() >= LEAST_CONTRAST)


def sample_scene(
    rng: np.random.Generator,
    shapes: Sequence[str] = tuple(OUTLINES),
    radius: tuple[float, float] = (0.18, 0.42),
    from_held_out: bool | None = None,
) -> Scene:
    """Draw a scene that lies inside the image, its colours at least `LEAST_CONTRAST` apart.

    Args:
        rng: Where all chance comes from.
        shapes: Keys of `OUTLINES` to choose from.
        radius: Smallest and largest, as shares of the side.
        from_held_out: True for held-out combinations only, False for the others only, None for all.
    """
    names = list(COLOURS)
    while True:
        shape = shapes[rng.integers(len(shapes))]
        colour, background = (names[i] for i in rng.integers(len(names), size=2))
        size = rng.uniform(*radius)
        margin = size + 0.02
        x, y = rng.uniform(margin, 1 - margin, size=2)
        scene = Scene(shape, colour, background, (float(x), float(y)), float(size), float(rng.uniform(0, 2 * np.pi)))
        if visible(colour, background) and from_held_out in (None, held_out(scene.prompt)):
            return scene
