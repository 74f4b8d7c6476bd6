"""The whole way in some minutes on a laptop: dataset, fresh ControlNet, training, images that follow a control.

Everything happens on the bundled miniature Stable Diffusion (128x128 pictures of coloured shapes), by the same scripts
that train the real one. The results are left in a folder, demo_out/ by default.
"""

import argparse
import csv
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cldm.fidelity import drawn_shape, iou
from cldm.model import load_model
from cldm.model_files import MINIATURE_SETTINGS
from cldm.pipeline import generate
from cldm.settings import Settings
from cldm.shapes import COLOURS, Scene, sample_scene
from cldm.training.curve import draw_curve

ROOT = Path(__file__).resolve().parent
BASE = ROOT / "models/sd_mini.safetensors"
CONFIG = ROOT / "models/cldm_mini.yaml"
SIZE = 128
GOAL = 0.85  # IoU; what a plain run reaches
_SHOWN = 6  # hints in the picture, and in the curve's points
_SEED = 20


@dataclass(frozen=True)
class Course:
    """How much of everything.

    Attributes:
        pairs: In the dataset.
        steps: Of training.
        batch_size: Pairs a step.
        learning_rate: High, because the miniature is small and time is short.
        points: Of the IoU curve, apart from the start.
        judged: Held-out hints that the IoU before and after is the mean of.
    """

    pairs: int = 2000
    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-3
    points: int = 5
    judged: int = 20


SHORT = Course(pairs=200, steps=20, points=2, judged=6)


def run(*command: object) -> None:
    """One of the project's scripts, as a user would call it."""
    words = [str(word) for word in command]
    print(f"\n$ python {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)


def held_out_circles(count: int) -> list[Scene]:
    """Circles in combinations of colours that no training set of ours contains."""
    rng = np.random.default_rng(_SEED)
    return [sample_scene(rng, shapes=("circle",), from_held_out=True) for _ in range(count)]


def follow(control: Path, scenes: list[Scene]) -> tuple[list[np.ndarray], float]:
    """An image for every scene's outline and prompt, and the mean IoU of the generated with the scenes' shapes."""
    model = load_model(CONFIG, BASE, control)
    images, overlaps = [], []
    for number, scene in enumerate(scenes):
        settings = _with_seed(_SEED + number)
        image = generate(model, scene.outline(SIZE), scene.prompt, settings).images[0]
        shape = drawn_shape(image, COLOURS[scene.colour], COLOURS[scene.background])
        images.append(image)
        overlaps.append(iou(shape, scene.mask(SIZE) > 0.5))
    return images, float(np.mean(overlaps))


def _with_seed(seed: int) -> Settings:
    return replace(MINIATURE_SETTINGS, seed=seed)


def losses(folder: Path) -> list[tuple[int, float]]:
    """Steps and losses as training logged them."""
    rows = []
    for file in sorted(folder.glob("**/metrics.csv")):
        with open(file, newline="") as lines:
            rows += [
                (int(row["step"]) + 1, float(row["train/loss_simple"]))
                for row in csv.DictReader(lines)
                if row.get("train/loss_simple")
            ]
    return rows


def picture(rows: dict[str, list[np.ndarray]], file: Path) -> None:
    """Rows of images with their names beside them."""
    label = 110
    strips = []
    for name, images in rows.items():
        strip = np.full((SIZE + 4, label + len(images) * (SIZE + 4), 3), 255, np.uint8)
        cv2.putText(strip, name, (4, SIZE // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        for column, image in enumerate(images):
            left = label + column * (SIZE + 4)
            strip[2 : 2 + SIZE, left : left + SIZE] = image
        strips.append(strip)
    Image.fromarray(np.concatenate(strips)).save(file)


def new_folder(parent: Path) -> Path:
    """A folder for this run that does not exist yet: run1, run2, ..."""
    number = 1
    while (parent / f"run{number}").exists():
        number += 1
    folder = parent / f"run{number}"
    folder.mkdir(parents=True)
    return folder


def demo(output: Path, course: Course) -> float:
    """All of it; returns the IoU after training."""
    folder = new_folder(output)
    data = output / f"fill50k_{course.pairs}"
    fresh = folder / "control_mini_ini.safetensors"
    every = course.steps // course.points

    run("tool_make_fill50k.py", "--count", course.pairs, "--size", SIZE, "--output", data, "--exclude-held-out")
    run("tool_add_control.py", BASE, fresh, "--config", CONFIG)
    run(
        "tutorial_train.py",
        f"config={CONFIG}",
        f"resume_path={fresh}",
        f"dataset={data}",
        f"output={folder}",
        f"batch_size={course.batch_size}",
        f"learning_rate={course.learning_rate}",
        f"max_steps={course.steps}",
        f"save_freq={every}",
        "keep_last=0",  # all of them are judged
        "keep_states=1",
        f"logger_freq={every}",
        f"image_scale={MINIATURE_SETTINGS.scale}",
        f"image_steps={MINIATURE_SETTINGS.steps}",
        f"warmup_steps={course.steps // 20}",  # these four keep so high a rate steady
        "schedule=cosine",
        "gradient_clip=1",
        "beta2=0.99",
        "prompt_dropout=0",  # the paper's half makes a control that needs no prompt, and learns it in longer
        "cache=true",
    )

    print(f"\nGenerating from {course.judged} held-out hints, before and after training ...", flush=True)
    scenes = held_out_circles(course.judged)
    few = scenes[:_SHOWN]
    images, before = follow(fresh, scenes)
    rows = {"hint": [scene.outline(SIZE) for scene in few], "step 0": images[:_SHOWN]}
    overlap = [(0, before)]
    for step in range(every, course.steps, every):
        images, value = follow(folder / f"control_{step:06}.safetensors", few)
        rows[f"step {step}"] = images
        overlap.append((step, value))
    images, after = follow(folder / f"control_{course.steps:06}.safetensors", scenes)
    rows |= {f"step {course.steps}": images[:_SHOWN], "target": [scene.image(SIZE) for scene in few]}
    overlap.append((course.steps, after))
    picture(rows, folder / "samples.png")
    draw_curve(folder / "curve.png", overlap, {"loss": losses(folder)}, label="IoU with the hint's shape")
    print(f"\nIoU of the generated shapes with the hints': {before:.3f} before training, {after:.3f} after")
    print(f"Hints, samples over training and targets: {folder / 'samples.png'}")
    print(f"Loss and IoU: {folder / 'curve.png'}")
    return after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo_out"), help="folder of all runs (%(default)s)")
    parser.add_argument("--short", action="store_true", help="some steps only: shows that all works, learns nothing")
    given = parser.parse_args()
    started = time.monotonic()
    after = demo(given.output.resolve(), SHORT if given.short else Course())
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")
    if not given.short and after < GOAL:
        raise SystemExit(f"error: IoU {after:.3f} is below {GOAL}, which this run should reach; please report it")
    print(
        "\nNext, after `source .venv/bin/activate` (Windows: .venv\\Scripts\\activate) if make installed it:\n"
        "  python gradio_canny2image.py        an app in your browser, on the miniature until you add weights\n"
        "  python tutorial_dataset.py PATH     check a dataset of your own\n"
        "  README.md, section Train             train a ControlNet for Stable Diffusion on it"
    )


if __name__ == "__main__":
    main()
