"""The settings of one generation, and the limits that they are checked against."""

import numbers
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

ADDED_PROMPT = "best quality, extremely detailed"
NEGATIVE_PROMPT = (
    "longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality"
)
GUESS_MODE_DECAY = 0.825  # of the connections' weights, from the middle block's outwards
RANDOM_SEED = -1  # stands for a seed that is picked and reported
SAMPLERS = ("ddim", "dpm++", "unipc")
_MAX_SEED = 2**32 - 1
_MOST_IMAGES = 10_000
_PICKED_BELOW = 2**31  # far enough from the highest seed that every image of a batch has one


class Limit(NamedTuple):
    """Smallest and largest value of a number, and whether it must be whole."""

    lowest: float
    highest: float
    whole: bool

    def allows(self, number: float) -> bool:
        return self.lowest <= number <= self.highest  # nan is not between any two


LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        "steps": Limit(1, 1000, True),
        "scale": Limit(0.0, 1000.0, False),
        "eta": Limit(0.0, 1.0, False),
        "strength": Limit(-1000.0, 1000.0, False),
        "seed": Limit(RANDOM_SEED, _MAX_SEED, True),
        "images": Limit(1, _MOST_IMAGES, True),
        "batch_size": Limit(0, _MOST_IMAGES, True),
        "denoise": Limit(0.0, 1.0, False),
        "mask_border": Limit(0, 128, True),
        "clip_skip": Limit(0, 12, True),
    }
)
"""Of the settings that are numbers, by their names: for programs, the command line and what is read from an image."""

PAGE_LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        **LIMITS,
        "steps": Limit(1, 100, True),
        "scale": Limit(0.1, 30.0, False),
        "strength": Limit(0.0, 2.0, False),
        "images": Limit(1, 12, True),
    }
)
"""Of an app's sliders, and of programs that call an app."""


@dataclass(frozen=True)
class Settings:
    """How to generate; the same settings with a seed of 0 or more give the same images.

    Attributes:
        steps: Of the sampler.
        scale: Guidance scale; 1 is no guidance, 0 follows the negative prompt alone.
        eta: Share of fresh noise at each step: 0 is deterministic DDIM, 1 is DDPM. The other samplers take 0 alone.
        strength: Weight of the control; 0 is none, below 0 leads away from the map.
        guess_mode: Let the control lead even without a prompt: the unconditional pass sees no control map, and
            the connections' weights fall off from the middle block outwards.
        cfg_resolution_weighting: The paper's way to keep guidance from drowning the control: the unconditional pass
            sees no control map, and a connection weighs the more, the coarser it is. Not together with guess mode.
        seed: Of the first image; image k has seed + k. -1 picks one at random.
        images: How many.
        batch_size: How many of them are drawn at once, which takes memory; 0 is all.
        added_prompt: Joined to every prompt by a comma.
        negative_prompt: What guidance leads away from.
        sampler: "ddim", "dpm++" (DPM-Solver++ 2M) or "unipc"; the last two need fewer steps.
        denoise: Share of the steps that an image to start from goes through: 0 gives it back, 1 leaves nothing of it.
        mask_border: Pixels over which what was repainted fades into what was kept, inside the mask; 0 is a sharp edge.
        clip_skip: Layer of the text encoder that prompts are taken from, counted from the end: 1 is the last; 0 is
            the model's own.
        long_prompts: Read prompts of more than 75 tokens to the end, in chunks of 75 that are encoded apart.

    Raises:
        ValueError: If one of them is of the wrong type or out of its limits.
    """

    steps: int = 20
    scale: float = 9.0
    eta: float = 0.0
    strength: float = 1.0
    guess_mode: bool = False
    seed: int = RANDOM_SEED
    images: int = 1
    added_prompt: str = ADDED_PROMPT
    negative_prompt: str = NEGATIVE_PROMPT
    sampler: str = "ddim"
    cfg_resolution_weighting: bool = False
    denoise: float = 1.0
    mask_border: int = 0
    clip_skip: int = 0
    long_prompts: bool = False
    batch_size: int = 0

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            object.__setattr__(self, name, checked_number(name, getattr(self, name), limit))
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if self.sampler != "ddim" and self.eta != 0:
            raise ValueError(f"eta must be 0 with the sampler {self.sampler}, got {self.eta}; only ddim takes others")
        for name in ("guess_mode", "cfg_resolution_weighting", "long_prompts"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.guess_mode and self.cfg_resolution_weighting:
            raise ValueError("guess_mode and cfg_resolution_weighting weigh the same connections; set one of them")
        for name in ("added_prompt", "negative_prompt"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a text, may be empty, got {getattr(self, name)!r}")
        if self.seed + self.images - 1 > _MAX_SEED:
            raise ValueError(
                f"seed must be at most {_MAX_SEED - self.images + 1} for {self.images} images, got {self.seed}"
            )

    def seeds(self) -> list[int]:
        """A seed for each image; a random start is picked anew at every call."""
        first = secrets.randbelow(_PICKED_BELOW) if self.seed == RANDOM_SEED else self.seed
        return [first + k for k in range(self.images)]

    def batches(self) -> list[range]:
        """Which images are drawn at once, by their places from 0."""
        size = self.batch_size or self.images
        return [range(first, min(first + size, self.images)) for first in range(0, self.images, size)]

    @property
    def control_in_both_passes(self) -> bool:
        """Whether the unconditional pass of guidance sees the control maps too."""
        return not (self.guess_mode or self.cfg_resolution_weighting)

    def control_scales(self, reductions: Sequence[int]) -> list[float]:
        """The weight of each of a ControlNet's connections.

        Args:
            reductions: How many times smaller than the latent each connection is, the middle block's last.
        """
        last = len(reductions) - 1
        if self.guess_mode:
            return [self.strength * GUESS_MODE_DECAY ** (last - i) for i in range(len(reductions))]
        if self.cfg_resolution_weighting:  # arXiv:2302.05543, section 3.4: 64 / h_i for latents 64 high
            return [self.strength * reduction for reduction in reductions]
        return [self.strength] * len(reductions)

    def full_prompt(self, prompt: str) -> str:
        """The prompt with the added prompt, either of which may be empty."""
        return ", ".join(part for part in (prompt.strip(), self.added_prompt.strip()) if part)


def whole(value: Any) -> Any:
    """A browser's 20.0 as 20; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def with_whole_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with those settings among them that are counted, such as steps, as `whole` has them."""
    return {name: whole(value) if name in LIMITS and LIMITS[name].whole else value for name, value in values.items()}


def checked_number(name: str, value: Any, limit: Limit) -> int | float:
    """A number that keeps its limits; numpy's and others as Python's own, which can be written as JSON.

    Raises:
        ValueError: If it does not, or is no number of the right kind.
    """
    kind = numbers.Integral if limit.whole else numbers.Real
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not is_number or not limit.allows(value):
        wanted = "a whole number" if limit.whole else "a number"
        raise ValueError(f"{name} must be {wanted} from {limit.lowest:g} to {limit.highest:.10g}, got {value!r}")
    if type(value) in (int, float):
        return value
    return int(value) if limit.whole else float(value)
