"""What the channels of the published networks stand for: joints, limbs and their fields, and the colours they get."""

import colorsys
from typing import NamedTuple

JOINTS = (
    "nose",
    "neck",
    *("right shoulder", "right elbow", "right wrist"),
    *("left shoulder", "left elbow", "left wrist"),
    *("right hip", "right knee", "right ankle"),
    *("left hip", "left knee", "left ankle"),
    *("right eye", "left eye", "right ear", "left ear"),
)


class Limb(NamedTuple):
    """Two joints, by their index in `JOINTS`, and the limb's field: channel `field` is x, the next one y."""

    start: int
    end: int
    field: int


def _limb(start: str, end: str, field: int) -> Limb:
    return Limb(JOINTS.index(start), JOINTS.index(end), field)


# Persons are put together in this order, so it decides who gets a contested joint.
LIMBS = (
    _limb("neck", "right shoulder", 12),
    _limb("neck", "left shoulder", 20),
    _limb("right shoulder", "right elbow", 14),
    _limb("right elbow", "right wrist", 16),
    _limb("left shoulder", "left elbow", 22),
    _limb("left elbow", "left wrist", 24),
    _limb("neck", "right hip", 0),
    _limb("right hip", "right knee", 2),
    _limb("right knee", "right ankle", 4),
    _limb("neck", "left hip", 6),
    _limb("left hip", "left knee", 8),
    _limb("left knee", "left ankle", 10),
    _limb("neck", "nose", 28),
    _limb("nose", "right eye", 30),
    _limb("right eye", "right ear", 34),
    _limb("nose", "left eye", 32),
    _limb("left eye", "left ear", 36),
    _limb("right shoulder", "right ear", 18),
    _limb("left shoulder", "left ear", 26),
)
DRAWN_LIMBS = LIMBS[:17]  # those from shoulder to ear help to put persons together and are not shown

HAND_JOINTS = 21  # the wrist, then four from base to tip for each finger from the thumb on
HAND_BONES = tuple(
    (0 if joint == base else joint - 1, joint) for base in range(1, HAND_JOINTS, 4) for joint in range(base, base + 4)
)


def _hues(count: int) -> tuple[tuple[int, ...], ...]:
    """RGB colours, evenly spaced round the hue circle from red."""
    return tuple(tuple(round(255 * v) for v in colorsys.hsv_to_rgb(i / count, 1, 1)) for i in range(count))


COLOURS = _hues(len(JOINTS))
HAND_COLOURS = _hues(len(HAND_BONES))
