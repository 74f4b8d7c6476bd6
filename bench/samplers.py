"""How many steps each sampler needs, on the bundled miniature: python -m bench.samplers.

Images for the same held-out prompts, edges and noise by every sampler with more and more steps. Printed for each:

- IoU of the shapes with the edges', and the mean errors of shapes' and backgrounds' colours, out of 255: see
  `training.mini.evaluate`;
- distance: mean absolute difference to the images of DDIM with all 1000 steps from the same noise, out of 255. All
  samplers solve the same equation, so with more and more steps they come to the same images.

Ends with an error if DPM-Solver++ or UniPC in half of DDIM's steps is farther from there than DDIM, or has a lower IoU
by more than 0.005.
"""

import argparse
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cldm.cldm import ControlLDM
from cldm.model import load_model
from cldm.pipeline import SAMPLERS
from cldm.shapes import Scene
from training.mini.evaluate import generate, held_out_scenes, mean_colour_errors, mean_iou

MODELS = Path(__file__).resolve().parents[1] / "models"
LIMIT_STEPS = 1000
STEPS = (5, 10, 20, 40)
SLACK = 0.005  # of IoU


class Quality(NamedTuple):
    """Of one sampler with so many steps."""

    iou: float
    colour_error: float
    background_error: float
    distance: float


def quality(images: list[np.ndarray], scenes: list[Scene], limit: list[np.ndarray]) -> Quality:
    """How well images keep to their scenes, and how far they are from the limit's."""
    differences = [np.abs(a.astype(int) - b.astype(int)).mean() for a, b in zip(images, limit, strict=True)]
    return Quality(mean_iou(images, scenes), *mean_colour_errors(images, scenes), float(np.mean(differences)))


def measure(model: ControlLDM, count: int) -> dict[tuple[str, int], Quality]:
    """By sampler and steps; prints a row for each."""
    scenes, found = held_out_scenes(count), {}
    limit = generate(model, scenes, "canny", steps=LIMIT_STEPS)
    print("| sampler | steps | IoU | error of shapes | of backgrounds | distance |\n|---|---|---|---|---|---|")
    for name, sampler in SAMPLERS.items():
        for steps in STEPS:
            images = generate(model, scenes, "canny", steps=steps, sampler=sampler)
            found[name, steps] = row = quality(images, scenes, limit)
            print(
                f"| {name} | {steps} | {row.iou:.3f} | {row.colour_error:.1f} | {row.background_error:.1f} "
                f"| {row.distance:.2f} |",
                flush=True,
            )
    return found


def missed(found: dict[tuple[str, int], Quality]) -> list[str]:
    """Where half the steps are not as good as DDIM's whole."""
    complaints = []
    for half, whole in pairwise(STEPS):
        ddim = found["ddim", whole]
        for name in SAMPLERS:
            other = found[name, half]
            if name != "ddim" and (other.distance > ddim.distance or other.iou < ddim.iou - SLACK):
                complaints.append(f"{name} in {half} steps {other}, DDIM in {whole} {ddim}")
    return complaints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="images (default: %(default)s)")
    options = parser.parse_args()
    files = (MODELS / "sd_mini.safetensors", MODELS / "control_mini.safetensors")
    model = load_model(MODELS / "cldm_mini.yaml", *files, device="cpu")
    if complaints := missed(measure(model, options.count)):
        sys.exit("\n".join(complaints))


if __name__ == "__main__":
    main()
