"""How images of any size come into the size that is trained: source and target alike, and never distorted.

Targets are scaled down by the area of pixels, and up by Lanczos. Control maps are scaled down by area as well, so that
a thin line turns grey where other methods lose it, and up linearly, since Lanczos would put halos around lines. Maps
whose colours are labels, such as segmentation, are scaled by "nearest", which makes no new colours.
"""

import re
from dataclasses import dataclass

import cv2
import numpy as np

SIZE_STEP = 64  # Stable Diffusion's images have sides that are multiples of it
WAYS = ("resize", "crop", "pad")
HINT_RESAMPLING = ("smooth", "nearest")
_LONGEST_SIDE = 8192  # beyond it a size is a mistake, and would fill the memory

Size = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """Where an image goes: first it is scaled, then the frame is cut out of it, or put around it.

    Attributes:
        scaled: Size, (width, height), after scaling.
        offset: Of the frame's corner from the image's, (x, y); negative where there is a border.
    """

    scaled: Size
    offset: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Framing:
    """The size that images are brought to, and how.

    Attributes:
        size: (width, height), multiples of 64. None takes images as they are: sides must be such multiples already.
        how: "resize" scales, and refuses images of another aspect. "crop" scales until the frame is filled and cuts off
            what stands out, the same on both sides. "pad" scales until all is inside and makes the rest black (0 in
            control maps).
        hint_resampling: "smooth" or "nearest", see above.

    Raises:
        ValueError: If one of them is not as said.
    """

    size: Size | None = None
    how: str = "resize"
    hint_resampling: str = "smooth"

    def __post_init__(self) -> None:
        if self.how not in WAYS:
            raise ValueError(f"framing must be one of {', '.join(WAYS)}, got {self.how!r}")
        if self.hint_resampling not in HINT_RESAMPLING:
            raise ValueError(f"hint_resampling must be smooth or nearest, got {self.hint_resampling!r}")
        if self.size is None and self.how != "resize":
            raise ValueError(f"framing={self.how} needs the size to {self.how} to, such as size=512")
        if self.size is not None and not all(0 < side <= _LONGEST_SIDE and side % SIZE_STEP == 0 for side in self.size):
            raise ValueError(
                f"size must have sides that are multiples of {SIZE_STEP} up to {_LONGEST_SIDE}, got {_text(self.size)}"
            )

    def place(self, target: Size, sources: list[Size]) -> Placement:
        """Where images of these sizes, (width, height), go.

        Raises:
            ValueError: If they do not belong together, or cannot be brought to the size without distortion.
        """
        if self.size is None:
            problems = (size_problem(source, target) for source in sources)
            if problem := next(filter(None, problems), ""):
                raise ValueError(problem)
            return Placement(target)
        for source in sources:
            if not _same_shape(source, target):
                raise ValueError(
                    f"source is {_text(source)} and target {_text(target)}, which are of different shapes, so that "
                    "they cannot lie over each other; make the source from the whole target"
                )
        return self._placement(target)

    def _placement(self, image: Size) -> Placement:
        (width, height), (frame_width, frame_height) = image, self.size
        across, down = frame_width / width, frame_height / height
        if self.how == "resize":
            if round(height * across) != frame_height and round(width * down) != frame_width:
                raise ValueError(
                    f"images are {_text(image)}, and resizing them to {_text(self.size)} would distort them; train "
                    "with framing=crop or framing=pad, or with a size of their shape"
                )
            return Placement(self.size)
        scale, limit = (max(across, down), max) if self.how == "crop" else (min(across, down), min)
        scaled = limit(frame_width, round(width * scale)), limit(frame_height, round(height * scale))
        scaled = max(1, scaled[0]), max(1, scaled[1])
        # Half of what is over, rounded towards zero, so that cutting and padding undo each other.
        x, y = int((scaled[0] - frame_width) / 2), int((scaled[1] - frame_height) / 2)
        return Placement(scaled, (x, y))

    def target(self, image: np.ndarray, placement: Placement) -> np.ndarray:
        """A target, uint8 (h, w, 3), in its place."""
        return self._framed(image, placement, cv2.INTER_AREA, cv2.INTER_LANCZOS4)

    def hint(self, image: np.ndarray, placement: Placement) -> np.ndarray:
        """A control map, uint8 or float32 (h, w, c), in its place."""
        if self.hint_resampling == "nearest":
            return self._framed(image, placement, cv2.INTER_NEAREST_EXACT, cv2.INTER_NEAREST_EXACT)
        return self._framed(image, placement, cv2.INTER_AREA, cv2.INTER_LINEAR)

    def _framed(self, image: np.ndarray, placement: Placement, shrink: int, grow: int) -> np.ndarray:
        height, width = image.shape[:2]
        if (width, height) != placement.scaled:
            shrinks = placement.scaled[0] * placement.scaled[1] < width * height
            image = _resized(image, placement.scaled, shrink if shrinks else grow)
        return image if self.size is None else _cut(image, placement.offset, self.size)


def parse_size(text: str | int) -> Size | None:
    """`512`, `"512"` or `"512x768"` as (width, height); 0 or nothing is None.

    Raises:
        ValueError: If it is anything else.
    """
    if str(text) in ("", "0"):
        return None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(text))
    if not match:
        raise ValueError(f"size must be a number of pixels such as 512, or WIDTHxHEIGHT such as 512x768, got {text!r}")
    width = int(match[1])
    return width, int(match[2] or width)


def size_problem(source: Size, target: Size) -> str:
    """What keeps a source and its target, (width, height), from being used as they are; empty if nothing does."""
    if source != target:
        return f"source is {_text(source)} and target {_text(target)}; make them the same size"
    if source[0] % SIZE_STEP or source[1] % SIZE_STEP:
        return (
            f"images are {_text(source)}; resize or crop both sides to multiples of {SIZE_STEP}, or train with a size, "
            "such as size=512 framing=crop"
        )
    return ""


def _same_shape(a: Size, b: Size) -> bool:
    """Whether one is the other scaled, to a pixel of the smaller one."""
    (width, height), (large_width, large_height) = sorted((a, b))
    return (
        abs(large_height * width / large_width - height) <= 1 or abs(large_width * height / large_height - width) <= 1
    )


def _resized(image: np.ndarray, size: Size, interpolation: int) -> np.ndarray:
    if image.shape[2] == 3:
        return cv2.resize(image, size, interpolation=interpolation)
    channels = (np.ascontiguousarray(image[:, :, i]) for i in range(image.shape[2]))
    return np.stack([cv2.resize(channel, size, interpolation=interpolation) for channel in channels], axis=2)


def _cut(image: np.ndarray, offset: tuple[int, int], size: Size) -> np.ndarray:
    """The part of an image that is in the frame; 0 around it."""
    (x, y), (width, height) = offset, size
    inside = image[max(y, 0) : max(y, 0) + height, max(x, 0) : max(x, 0) + width]
    if inside.shape[:2] == (height, width):
        return inside
    left, top = max(-x, 0), max(-y, 0)
    framed = np.zeros((height, width, image.shape[2]), image.dtype)
    framed[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return framed


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
