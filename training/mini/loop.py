"""One resumable training loop for all parts of the miniature.

The data and the noise of step k are drawn from (seed, k) alone, and everything that the next step depends on is
saved, so a run that was interrupted ends as one that was not.
"""

import copy
import csv
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cldm.cache.key import weights_hash

SAVE_SECONDS = 60
LOG_STEPS = 100


@dataclass(frozen=True)
class Plan:
    """How one part is trained.

    Attributes:
        name: Of the part; its files in the work folder begin with it.
        steps: In all.
        learning_rate: The peak, after warm-up; it falls to nothing along a half cosine.
        warmup: Steps of linear warm-up.
        ema: Decay of the running average of weights that is the result; it starts lower.
        weight_decay: Of AdamW, for matrices and kernels only.
        clip: Largest norm of all gradients together.
        seed: Where all chance comes from.
        bfloat16: Compute in mixed precision: three quarters of the time where a CPU has instructions for it.
    """

    name: str
    steps: int
    learning_rate: float
    warmup: int = 200
    ema: float = 0.999
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    bfloat16: bool = False


def rate(plan: Plan, step: int) -> float:
    """The learning rate of `step`, counted from 0."""
    warm = min(1.0, (step + 1) / plan.warmup)
    return plan.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / plan.steps))


def train(
    plan: Plan,
    network: nn.Module,
    loss_of: Callable[[int, np.random.Generator], Tensor],
    work: Path,
    check: Callable[[nn.Module], dict[str, float]] | None = None,
    check_steps: int = 1000,
    based_on: str = "",
) -> nn.Module:
    """Train `network` in place and return its running average.

    Args:
        plan: Steps, rates, seed.
        network: What is optimised; `loss_of` uses it.
        loss_of: Given the step and a generator that belongs to it, the loss to descend.
        work: Folder of the part's state (`<name>.pt`) and log (`<name>.csv`).
        check: Measures on the running average, logged every `check_steps` and at the end.
        check_steps: See `check`.
        based_on: What the part depends on besides its plan, as `hash_of` says it.

    Raises:
        ValueError: If the state in the work folder is of another plan, or of other parts that it depends on.
    """
    work.mkdir(parents=True, exist_ok=True)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": plan.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.99),
        fused=True,
    )
    average = copy.deepcopy(network).requires_grad_(False).eval()
    state_file, log_file = work / f"{plan.name}.pt", work / f"{plan.name}.csv"
    first, seconds = 0, 0.0
    if state_file.exists():
        saved = torch.load(state_file, weights_only=True)
        if saved["plan"] != asdict(plan):
            raise ValueError(
                f"{state_file} was made with {saved['plan']}, not {asdict(plan)}; move it away to start anew"
            )
        if saved.get("based_on", "") != based_on:
            raise ValueError(
                f"{state_file} was made on other parts than those there are now (latents, base or first ControlNet); "
                "move it away to start anew"
            )
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        first, seconds = saved["step"], saved["seconds"]
        print(f"{plan.name}: resuming at step {first} of {plan.steps}", flush=True)
    started = last_save = time.monotonic()
    running: list[float] = []
    for step in range(first, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(plan, step)
        torch.manual_seed(plan.seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.bfloat16):
            loss = loss_of(step, np.random.default_rng((plan.seed, step)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, plan.clip)
        optimizer.step()
        _move_average(average, network, min(plan.ema, (1 + step) / (10 + step)))
        running.append(loss.item())
        done = step + 1
        if done % LOG_STEPS == 0 or done == plan.steps:
            row = {"step": done, "loss": sum(running) / len(running)}
            row["minutes"] = (seconds + time.monotonic() - started) / 60
            running.clear()
            if check is not None and (done % check_steps == 0 or done == plan.steps):
                row.update(check(average))
            _log(log_file, row)
        if time.monotonic() - last_save > SAVE_SECONDS or done == plan.steps:
            last_save = time.monotonic()
            state = {"network": network.state_dict(), "average": average.state_dict(), "plan": asdict(plan)}
            state["based_on"] = based_on
            state |= {"optimizer": optimizer.state_dict(), "step": done, "seconds": seconds + last_save - started}
            torch.save(state, state_file.with_suffix(".tmp"))
            state_file.with_suffix(".tmp").replace(state_file)
    return average


def hash_of(latents: Tensor, *parts: nn.Module) -> str:
    """SHA-256 of latents and of the weights of parts."""
    kept = nn.ParameterDict({"latents": nn.Parameter(latents, requires_grad=False)})
    return weights_hash(nn.ModuleList([kept, *parts]))


@torch.no_grad()
def _move_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


def _log(file: Path, row: dict[str, float]) -> None:
    print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    with open(file, "a", newline="") as out:
        csv.writer(out).writerow([f"{k}={v:.6g}" for k, v in row.items()])
