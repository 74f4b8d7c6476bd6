"""How fast a ControlNet learns with our trainer, and with a plain loop over diffusers' networks.

Run `python -m bench.learning` in the project's root. Both sides train the miniature's fresh ControlNet on the same
Fill50K of 128 pixels in the same order, with the same optimizer, learning rate and batch size, and the same noise, time
steps and dropped prompts; ours by `tutorial_train.py` with the cache, which it makes within the time that is counted.
Every so many steps the same judge draws images for the same held-out hints; its time is not counted, nor is importing.
So both sides do the same but for rounding, which chance makes much of where a control is suddenly learnt, and differ in
seconds. Each runs as it does for its users: ours steps AdamW in one kernel and keeps freed memory, the loop does not.

Each run is a process of its own, and its figures are appended to runs/learning/results.jsonl when it is complete, so
that the bench goes on where it was stopped; a run of other code or on another machine is made again. At the end there
are a table and runs/learning/curve.png. It takes some 35 minutes on two cores. Three seeds leave much to chance: see
docs/performance.md.
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from bench.learning_sides import Course, run

ROOT = Path(__file__).resolve().parents[1]
GOAL = 0.85
"""IoU to be reached."""

SPEEDUP = 1.6
"""At least so much sooner in seconds."""

SIDES = ("ours", "diffusers")
_CODE = ("tutorial_*.py", "cldm/**/*.py", "ldm/**/*.py", "bench/learning_sides.py")


@dataclass(frozen=True)
class Run:
    """A finished run: who, with which seed and course, where, and the IoU after so many steps and seconds."""

    side: str
    seed: int
    course: dict
    place: dict
    steps: list[int]
    seconds: list[float]
    iou: list[float]

    def reached(self, goal: float) -> tuple[int, float] | None:
        """Steps and seconds at which the IoU first was as high, between two judgements by a straight line."""
        for k, value in enumerate(self.iou):
            if value >= goal:
                if k == 0:
                    return self.steps[0], self.seconds[0]
                share = (goal - self.iou[k - 1]) / (value - self.iou[k - 1])
                return tuple(v[k - 1] + share * (v[k] - v[k - 1]) for v in (self.steps, self.seconds))
        return None


def place() -> dict[str, Any]:
    """What seconds depend on beside the course: the code, the library and the machine."""
    code = sha256(b"".join(file.read_bytes() for part in _CODE for file in sorted(ROOT.glob(part))))
    processor = re.search(r"model name\s*:\s*(.+)", _text(Path("/proc/cpuinfo")))
    return {
        "code": code.hexdigest()[:12],
        "torch": torch.__version__,
        "processor": processor[1] if processor else platform.processor(),
        "threads": torch.get_num_threads(),
    }


def finished(file: Path, course: Course, here: dict[str, Any]) -> list[Run]:
    """The runs of this course that were completed with this code on this machine."""
    lines = [json.loads(line) for line in _text(file).splitlines()]
    return [Run(**each) for each in lines if (each["course"], each.get("place")) == (asdict(course), here)]


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""


def report(runs: list[Run]) -> bool:
    """Print both tables; returns whether both goals are met."""
    by_side = {side: [each for each in runs if each.side == side] for side in SIDES}
    print("\n| steps | " + " | ".join(f"IoU, {side}" for side in SIDES) + " |\n|---|---|---|")
    for k, step in enumerate(runs[0].steps):
        cells = [_mean_and_spread([each.iou[k] for each in by_side[side]]) for side in SIDES]
        print(f"| {step} | " + " | ".join(cells) + " |")
    print(f"\n| side | seed | seconds a step | steps to IoU {GOAL} | seconds to it |\n|---|---|---|---|---|")
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for each in runs:
        reached = each.reached(GOAL)
        told = "- | -" if reached is None else f"{reached[0]:.0f} | {reached[1]:.0f}"
        print(f"| {each.side} | {each.seed} | {each.seconds[-1] / each.steps[-1]:.3f} | {told} |")
        if reached is not None:
            seconds[each.side].append(reached[1])
    costs = {side: statistics.mean(r.seconds[-1] / r.steps[-1] for r in by_side[side]) for side in SIDES}
    print(f"a step of ours takes {costs['diffusers'] / costs['ours']:.2f} times less, with the cache's making")
    equal = all(
        [
            _at_least_equal("mean of all judgements", {s: [statistics.mean(r.iou) for r in by_side[s]] for s in SIDES}),
            _at_least_equal("after the last step", {side: [each.iou[-1] for each in by_side[side]] for side in SIDES}),
        ]
    )
    if any(len(seconds[side]) < len(by_side[side]) for side in SIDES):
        print(f"not all runs reached IoU {GOAL}, so seconds are not compared")
        return False
    ratio = statistics.mean(seconds["diffusers"]) / statistics.mean(seconds["ours"])
    print(f"sooner at IoU {GOAL}, in seconds: {ratio:.2f}x (goal {SPEEDUP}x)")
    return equal and ratio >= SPEEDUP


def _at_least_equal(what: str, iou: dict[str, list[float]]) -> bool:
    """Whether ours is not below theirs by more than the larger standard deviation over seeds; prints it."""
    means, noise = {side: statistics.mean(values) for side, values in iou.items()}, max(map(_spread, iou.values()))
    equal = means["ours"] >= means["diffusers"] - noise
    figures = ", ".join(f"{side} {mean:.3f}" for side, mean in means.items())
    print(f"IoU, {what}: {figures}, spread of seeds {noise:.3f}: {'at least equal' if equal else 'LESS'}")
    return equal


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _mean_and_spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {_spread(values):.3f}" if values else "-"


def draw(runs: list[Run], file: Path) -> None:
    """IoU against steps and against seconds, a line for each run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, of, label in zip(
        figure.subplots(1, 2, sharey=True), ("steps", "seconds"), ("step", "seconds"), strict=True
    ):
        for each in runs:
            colour = "tab:blue" if each.side == "ours" else "tab:orange"
            name = each.side if each.seed == runs[0].seed else None
            axis.plot(getattr(each, of), each.iou, color=colour, label=name, alpha=0.8)
        axis.axhline(GOAL, color="tab:gray", linestyle=":")
        axis.set(xlabel=label, ylim=(0, 1))
    figure.axes[0].set(ylabel="IoU with the hint's shape")
    figure.axes[0].legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for field in fields(Course):
        default = field.default
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/learning")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    course = Course(**{field.name: getattr(options, field.name) for field in fields(Course)})
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / "results.jsonl"
    if options.one:
        side, seed = options.one[0], int(options.one[1])
        points = run(side, seed, course, options.folder)
        done = Run(side, seed, asdict(course), place(), *(list(values) for values in zip(*points, strict=True)))
        with open(file, "a") as lines:
            lines.write(json.dumps(asdict(done)) + "\n")
        return
    wanted = [(side, seed) for seed in options.seeds for side in SIDES]
    for side, seed in wanted:
        if (side, seed) not in {(each.side, each.seed) for each in finished(file, course, place())}:
            print(f"{side}, seed {seed}", flush=True)
            command = [sys.executable, "-m", "bench.learning", *sys.argv[1:], "--one", side, str(seed)]
            subprocess.run(command, cwd=ROOT, check=True)
    runs = [each for each in finished(file, course, place()) if (each.side, each.seed) in wanted]
    draw(runs, options.folder / "curve.png")
    if not report(runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
