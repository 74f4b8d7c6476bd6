"""Measure a training step beside diffusers' train_controlnet example: Stable Diffusion 1.5, one image, CPU.

Run `python -m bench.train_step` in the project's root; `--rows cache --sides 256` runs a part of it. Both sides have
the same random weights in float32, AdamW, and the same image, prompt, noise and time step. Each side is a process of
its own, in turn, of which the best step counts; with --turns 2 all have another turn, since a shared machine is now
faster and now slower. A process needs up to 13 GB.

- seconds: of the clock, and beside them of processors (cpu s), which other work on the machine changes less.
- peak GB: the most bytes (10**9) that tensors hold at once in a step after the first: weights, gradients, optimizer
  states and what the backward pass needs. See `bench.live_bytes`.
- TFLOP: by torch's FlopCounterMode with attention as matrix products, without which it does not count attention on the
  CPU. Counted on the meta device, where nothing is computed.
- loss: largest relative difference of the steps' losses.

With --computed nothing is run: operations are followed on PyTorch's fake tensors, which have sizes but no content, so
that seconds and losses are not known, and peak GB is to be trusted to 2 %. It needs neither time nor memory.

Gradients are clipped, as the example does, except with the optimizer in the backward pass, which excludes it: such a
row is beside the example without clipping. Both sides run as they do for their users: ours steps AdamW in one kernel
and keeps freed memory, as `tutorial_train.py` does on CPUs; the example does neither, and keeps gradients from step to
step, filled with zeros. --fused, --keep-freed-memory and --set-grads-to-none give it the same; only the last is a flag
of its own. Ends with an error if a goal is missed.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.live_bytes import LiveBytes, held
from bench.training_sides import CONFIG, VARIANTS, Example, Ours, Theirs, build, image
from cldm.cldm import ControlLDM
from cldm.model import read_config
from cldm.training import Settings
from ldm.util import instantiate_from_config

THEIRS, UNCLIPPED = "diffusers", "diffusers, not clipped"

EXAMPLE_FLAGS = {
    "--set-grads-to-none": "as the example's flag of that name",
    "--fused": "the example's AdamW in one kernel, as ours is",
    "--keep-freed-memory": "the example's process keeps freed memory, as ours does",
}


@dataclass(frozen=True)
class Measured:
    """A step's cost, and the losses of all steps."""

    seconds: float
    cpu_seconds: float
    peak: float
    tflop: float
    losses: list[float]


@dataclass(frozen=True)
class Goal:
    """What a row may cost at most, as a share of diffusers'; 1.0 where nothing is promised."""

    seconds: dict[int, float]
    tflop: dict[int, float]
    peak: float
    loss: float


_ANY = {256: float("inf"), 512: float("inf")}
GOALS = {
    "no cache": Goal({256: 0.95, 512: 0.95}, {256: 1.001, 512: 1.001}, 1.0, 1e-4),
    "cache": Goal({256: 0.60, 512: 0.62}, {256: 0.66, 512: 0.68}, 0.93, 1e-4),
    "in backward": Goal(_ANY, {256: 0.66, 512: 0.68}, 0.82, 1e-3),
    "low memory": Goal(_ANY, _ANY, 0.60, 1e-2),
}


def measure(row: str, side: int, steps: int, example: Example) -> Measured:
    """Train for one step and then `steps` measured ones, in this process."""
    tflop = count_tflop(row, side)
    trainer = make(row, side, "cpu", example)
    losses, seconds, cpu_seconds = [float(trainer.step())], [], []
    with LiveBytes(held(trainer.networks(), trainer.optimizer)) as live:
        for _ in range(steps):
            start, cpu_start = time.perf_counter(), time.process_time()
            losses.append(float(trainer.step()))
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
    return Measured(min(seconds), min(cpu_seconds), live.peak / 1e9, tflop, losses)


def make(row: str, side: int, device: str, example: Example) -> Ours | Theirs:
    """One of the sides, ready to step."""
    model, batch = build(device=device), image(side)
    if row in (THEIRS, UNCLIPPED):
        return Theirs.of(model, batch, replace(example, clips=row == THEIRS))
    return Ours(model, VARIANTS[row], batch)


def compute(row: str, side: int, example: Example) -> Measured:
    """What `measure` would find of a second step, without running it."""
    nan, batch = float("nan"), image(side)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = instantiate_from_config(read_config(CONFIG)).train()
        if row in (THEIRS, UNCLIPPED):
            trainer = Theirs.of(model, batch, replace(example, clips=row == THEIRS))
        else:
            trainer = Ours(model, _with_locked_cast(model, VARIANTS[row]), batch)
        del model
        with LiveBytes(held(trainer.networks(), trainer.optimizer)) as live:
            for _ in range(2):
                trainer.step()
    return Measured(nan, nan, live.peak / 1e9, count_tflop(row, side), [nan])


def _with_locked_cast(model: ControlLDM, settings: Settings) -> Settings:
    """Cast what is locked, since fake modules cannot be cast by `to`; the settings that are left to do."""
    if not settings.locked_in_bf16:
        return settings
    for module in model.model.diffusion_model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.detach().bfloat16(), requires_grad=False))
    optimization = settings.optimization
    return replace(
        settings,
        low_memory=False,
        locked_precision="32",
        gradient_checkpointing=settings.recomputes,
        optimizer=optimization.optimizer,
        optimizer_in_backward=optimization.in_backward,
    )


def count_tflop(row: str, side: int) -> float:
    """10**12 floating-point operations of a forward and a backward pass."""
    trainer = make(row, side, "meta", Example())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        trainer.gradients()
    return counter.get_total_flops() / 1e12


def cost(row: str, options: argparse.Namespace, side: int) -> Measured:
    """`measure` in a process of its own; or `compute` in this one."""
    if options.computed:
        return compute(row, side, example_of(options))
    numbers = ["--sides", side, "--steps", options.steps, "--threads", options.threads]
    flags = [flag for flag in EXAMPLE_FLAGS if getattr(options, flag[2:].replace("-", "_"))]
    command = [sys.executable, "-m", "bench.train_step", "--rows", row, "--here", *map(str, numbers), *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def example_of(options: argparse.Namespace) -> Example:
    """As the flags have it."""
    kept = not options.set_grads_to_none
    return Example(keep_gradients=kept, fused=options.fused, keep_freed_memory=options.keep_freed_memory)


def better(one: Measured | None, other: Measured) -> Measured:
    """Of a row's turns so far and its next one: the least time, and the rest as it is in each."""
    if one is None:
        return other
    return replace(
        other,
        seconds=min(one.seconds, other.seconds),
        cpu_seconds=min(one.cpu_seconds, other.cpu_seconds),
        peak=max(one.peak, other.peak),
    )


def compare(row: str, side: int, ours: Measured, theirs: Measured) -> list[str]:
    """Print a row of the table, and return the goals that it misses."""
    pairs = zip(ours.losses, theirs.losses, strict=True)
    shares = {
        "seconds": ours.seconds / theirs.seconds,
        "tflop": ours.tflop / theirs.tflop,
        "peak": ours.peak / theirs.peak,
        "loss": max(abs(a - b) / b for a, b in pairs),
    }
    print(
        f"| {side} | {row} | {ours.seconds:.1f} / {theirs.seconds:.1f} | {shares['seconds']:.2f} "
        f"| {ours.cpu_seconds / theirs.cpu_seconds:.2f} | {ours.peak:.2f} / {theirs.peak:.2f} | {shares['peak']:.2f} "
        f"| {ours.tflop:.2f} / {theirs.tflop:.2f} | {shares['tflop']:.2f} | {shares['loss']:.0e} |",
        flush=True,
    )
    if row not in GOALS:
        return []
    goals = {name: goal[side] if isinstance(goal, dict) else goal for name, goal in vars(GOALS[row]).items()}
    return [
        f"{row}, {side} pixels: {name} {shares[name]:.4f}, expected at most {goal}"
        for name, goal in goals.items()
        if shares[name] > goal
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", metavar="ROW", default=list(GOALS), help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--sides", nargs="+", type=int, default=[512, 256], choices=[512, 256])
    parser.add_argument("--steps", type=int, default=2, help="measured steps of each process, after one more")
    parser.add_argument("--turns", type=int, default=1, help="processes of each side and row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for flag, told in EXAMPLE_FLAGS.items():
        parser.add_argument(flag, action="store_true", help=told)
    parser.add_argument("--computed", action="store_true", help="peak GB and TFLOP without running anything")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.rows) - {*VARIANTS, *([THEIRS, UNCLIPPED] if options.here else [])}:
        parser.error(f"no such rows: {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message="You are trying to `self.log")
    if options.here:
        (row,), (side,) = options.rows, options.sides
        print(json.dumps(asdict(measure(row, side, options.steps, example_of(options)))))
        return
    print(f"ours / diffusers', {options.threads} threads, torch {torch.__version__}\n")
    print("| pixels | ours | s | | cpu s | peak GB | | TFLOP | | loss |\n|---|---|---|---|---|---|---|---|---|---|")
    missed = []
    for side in options.sides:
        references = {row: THEIRS if VARIANTS[row].gradient_clip else UNCLIPPED for row in options.rows}
        measured: dict[str, Measured] = {}
        for _ in range(options.turns):
            for row in dict.fromkeys([*references.values(), *options.rows]):
                measured[row] = better(measured.get(row), cost(row, options, side))
        for row in options.rows:
            missed += compare(row, side, measured[row], measured[references[row]])
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
