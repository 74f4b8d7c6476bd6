"""Draws the pictures of this folder that are no photographs: python test_imgs/make_drawings.py [--output FOLDER].

Everything is painted from distances in numpy, so that the pictures come out the same everywhere.
"""

import argparse
import colorsys
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cldm.shapes import Scene

Points = Sequence[tuple[float, float]]


class Canvas:
    """A picture to paint on; coordinates in pixels, x to the right and y down.

    Args:
        width: In pixels.
        height: In pixels.
        background: One number a channel, 0 to 255.
    """

    def __init__(self, width: int, height: int, background: Sequence[float]):
        self.pixels = np.tile(np.array(background, np.float64), (height, width, 1))
        self.y, self.x = np.mgrid[:height, :width] + 0.5

    def paint(self, cover: np.ndarray, colour: Sequence[float]) -> None:
        """Blend a colour in where `cover`, (height, width) in [0, 1], says so."""
        self.pixels += cover[..., None] * (np.array(colour, np.float64) - self.pixels)

    def line(self, points: Points, colour: Sequence[float], width: float = 3) -> None:
        """A line through points, with round ends."""
        distance = np.min([self._to_segment(a, b) for a, b in pairwise(points)], axis=0)
        self.paint(np.clip(width / 2 - distance + 0.5, 0, 1), colour)

    def disc(self, x: float, y: float, radius: float, colour: Sequence[float]) -> None:
        """A filled circle."""
        self.paint(np.clip(radius - np.sqrt((self.x - x) ** 2 + (self.y - y) ** 2) + 0.5, 0, 1), colour)

    def flat(self, points: Points, colour: Sequence[float]) -> None:
        """A filled polygon with hard edges, by the even-odd rule."""
        inside = np.zeros(self.x.shape, bool)
        for (xa, ya), (xb, yb) in zip(points, [*points[1:], points[0]], strict=True):
            if ya != yb:
                crosses = (ya <= self.y) != (yb <= self.y)
                inside ^= crosses & (self.x < xa + (self.y - ya) * (xb - xa) / (yb - ya))
        self.paint(inside.astype(np.float64), colour)

    def _to_segment(self, a: tuple[float, float], b: tuple[float, float]) -> np.ndarray:
        """Distance of every pixel from the straight line between two points."""
        dx, dy = b[0] - a[0], b[1] - a[1]
        x, y = self.x - a[0], self.y - a[1]
        along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
        return np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2)

    def image(self) -> Image.Image:
        pixels = np.rint(self.pixels).astype(np.uint8)
        return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def scribble_house() -> Image.Image:
    """A house with a tree and a sun, as by hand: black on white."""
    canvas, rng = Canvas(640, 448, (255, 255, 255)), np.random.default_rng(7)

    def scribble(*points: tuple[float, float]) -> None:
        wobbly = []
        for a, b in pairwise(points):
            steps = max(2, int(np.hypot(b[0] - a[0], b[1] - a[1]) / 25))
            for k in range(steps):
                x, y = (p + (q - p) * k / steps + rng.uniform(-2.5, 2.5) for p, q in zip(a, b, strict=True))
                wobbly.append((x, y))
        canvas.line([*wobbly, points[-1]], (0, 0, 0), width=5)

    def ring(x: float, y: float, radius: float) -> None:
        scribble(*((x + radius * np.cos(t), y + radius * np.sin(t)) for t in np.linspace(0, 6.4, 13)))

    scribble((20, 392), (170, 385), (430, 396), (620, 388))
    scribble((140, 388), (142, 220), (360, 216), (364, 390))
    scribble((112, 226), (250, 110), (392, 222), (112, 226))
    scribble((222, 388), (220, 292), (282, 290), (284, 388))
    scribble((165, 250), (204, 250), (205, 290), (164, 290), (165, 250))
    scribble((303, 250), (344, 250), (343, 290), (303, 289), (303, 250))
    scribble((310, 156), (311, 112), (338, 113), (338, 180))
    scribble((496, 390), (500, 270))
    scribble((520, 390), (516, 270))
    ring(508, 208, 66)
    ring(80, 76, 34)
    return canvas.image()


def room_lines() -> Image.Image:
    """A room in central perspective with a door, a window, a table and boards: dark lines on paper."""
    canvas, ink = Canvas(512, 512, (246, 242, 232)), (30, 34, 52)
    centre, back = (256, 226), (150, 146, 362, 320)

    def towards(x: float, y: float, share: float) -> tuple[float, float]:
        """A point on the way to where the lines meet."""
        return x + (centre[0] - x) * share, y + (centre[1] - y) * share

    left, top, right, bottom = back
    canvas.line([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], ink)
    for corner, wall in (((0, 23), (left, top)), ((512, 23), (right, top)), ((0, 459), (left, bottom))):
        canvas.line([corner, wall], ink)
    canvas.line([(512, 459), (right, bottom)], ink)
    for x in range(40, 512, 72):
        canvas.line([(x, 512), towards(x, 512, 0.66)], (120, 110, 100), 1.5)
    canvas.line([(214, 320), (214, 196), (268, 196), (268, 320)], ink)
    canvas.line([(292, 182), (344, 182), (344, 248), (292, 248), (292, 182)], ink, 2)
    canvas.line([(318, 182), (318, 248)], ink, 2)
    canvas.line([(292, 215), (344, 215)], ink, 2)
    canvas.line([(28, 150), (106, 174), (106, 272), (28, 322), (28, 150)], ink, 2)
    table = [(324, 384), (456, 384), (410, 346), (316, 346), (324, 384)]
    canvas.line(table, ink)
    for x, y, length in ((324, 384, 84), (456, 384, 84), (410, 346, 60)):
        canvas.line([(x, y), (x, y + length)], ink)
    return canvas.image()


JOINTS = {
    "nose": (262, 128), "neck": (258, 210), "right shoulder": (198, 214), "right elbow": (134, 178),
    "right wrist": (112, 88), "left shoulder": (318, 212), "left elbow": (372, 292), "left wrist": (330, 366),
    "right hip": (222, 400), "right knee": (196, 534), "right ankle": (172, 676), "left hip": (298, 400),
    "left knee": (340, 528), "left ankle": (336, 676), "right eye": (246, 112), "left eye": (280, 114),
    "right ear": (224, 122), "left ear": (302, 126),
}  # fmt: skip
LIMBS = """
neck-right shoulder, neck-left shoulder, right shoulder-right elbow, right elbow-right wrist,
left shoulder-left elbow, left elbow-left wrist, neck-right hip, right hip-right knee, right knee-right ankle,
neck-left hip, left hip-left knee, left knee-left ankle, neck-nose, nose-right eye, right eye-right ear,
nose-left eye, left eye-left ear
"""


def pose_figure() -> Image.Image:
    """A person who waves, as a pose map: coloured limbs and joints on black."""
    canvas = Canvas(512, 768, (0, 0, 0))
    rainbow = [[255 * c for c in colorsys.hsv_to_rgb(k / 18, 1, 1)] for k in range(18)]
    for limb, colour in zip(" ".join(LIMBS.split()).split(", "), rainbow, strict=False):
        start, end = limb.split("-")
        canvas.line([JOINTS[start], JOINTS[end]], [0.6 * c for c in colour], width=8)
    for (x, y), colour in zip(JOINTS.values(), rainbow, strict=True):
        canvas.disc(x, y, 5, colour)
    return canvas.image()


def logo_transparent() -> Image.Image:
    """A badge with a bolt, its rim fading out; what is not painted is transparent."""
    canvas = Canvas(384, 384, (0, 0, 0, 0))
    from_centre = np.sqrt((canvas.x - 192) ** 2 + (canvas.y - 192) ** 2)
    canvas.pixels[..., :3] = (24, 92, 160)
    canvas.pixels[..., 3] = 255 * np.clip((180 - from_centre) / 60, 0, 1)
    canvas.flat([(216, 84), (126, 212), (184, 212), (164, 304), (258, 172), (200, 172)], (255, 214, 64, 255))
    return canvas.image()


def spheres_grey() -> Image.Image:
    """Three lit spheres on a plain, one channel."""
    canvas = Canvas(512, 448, (0,))
    canvas.pixels[..., 0] = 40 + 90 * canvas.y / 448
    for x, y, radius in ((150, 190, 96), (372, 150, 58), (318, 300, 118)):
        right, down = (canvas.x - x) / radius, (canvas.y - y) / radius
        towards = np.sqrt(np.clip(1 - right**2 - down**2, 0, 1))
        light = 20 + 225 * np.clip(0.8 * towards - 0.4 * right - 0.45 * down, 0, 1)
        cover = np.clip(radius - radius * np.sqrt(right**2 + down**2) + 0.5, 0, 1)
        canvas.pixels[..., 0] += cover * (light - canvas.pixels[..., 0])
    return canvas.image()


def street_segments() -> Image.Image:
    """A street as a segmentation map in ADE20K's colours."""
    sky, building, tree, road = (6, 230, 230), (180, 120, 120), (4, 200, 3), (140, 140, 140)
    pavement, car, person, window = (235, 255, 7), (0, 102, 200), (150, 5, 61), (230, 230, 230)
    canvas = Canvas(768, 512, sky)
    canvas.flat([(0, 60), (210, 130), (300, 220), (300, 320), (0, 420)], building)
    canvas.flat([(768, 20), (560, 120), (440, 232), (440, 320), (768, 440)], building)
    canvas.flat([(0, 380), (300, 300), (440, 300), (768, 400), (768, 512), (0, 512)], pavement)
    canvas.flat([(340, 300), (402, 300), (640, 512), (120, 512)], road)
    for x in (30, 110, 190):
        y = 170 + x // 4
        canvas.flat([(x, y), (x + 40, y + 8), (x + 40, y + 70), (x, y + 68)], window)
    canvas.flat([(404, 366), (430, 338), (490, 338), (520, 366), (530, 414), (396, 414)], car)
    for x, y, radius in ((604, 236, 62), (650, 210, 54), (660, 270, 48)):
        canvas.paint((np.sqrt((canvas.x - x) ** 2 + (canvas.y - y) ** 2) < radius).astype(float), tree)
    canvas.flat([(622, 280), (646, 280), (648, 410), (620, 410)], tree)
    canvas.flat([(166, 372), (176, 350), (192, 350), (202, 372), (196, 448), (172, 448)], person)
    canvas.paint((np.sqrt((canvas.x - 184) ** 2 + (canvas.y - 338) ** 2) < 13).astype(float), person)
    return canvas.image()


def star() -> Image.Image:
    """A picture of the miniature's world: light coral star with navy background."""
    return Image.fromarray(Scene("star", "light coral", "navy", (0.5, 0.52), 0.38, angle=0.15).image(512))


DRAWINGS: tuple[Callable[[], Image.Image], ...] = (
    scribble_house,
    room_lines,
    pose_figure,
    logo_transparent,
    spheres_grey,
    street_segments,
    star,
)
"""Each makes the picture of its name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder; pictures there are kept")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for draw in DRAWINGS:
        file = given.output / f"{draw.__name__}.png"
        if file.exists():
            print(f"{file} is there; delete it to have it drawn again")
            continue
        draw().save(file.with_suffix(".tmp"), "PNG", optimize=True)
        file.with_suffix(".tmp").replace(file)
        print(file)


if __name__ == "__main__":
    main()
