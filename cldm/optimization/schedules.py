"""The course of the learning rate, as a share of the one that is set."""

import math

SCHEDULES = ("constant", "cosine", "linear")


def share(schedule: str, step: int, warmup: int, total: float) -> float:
    """Share of the learning rate at a step.

    During the first `warmup` steps it rises in a line to 1, which it has at the last of them. Then it is 1, or falls
    to 0 at `total`: in a line, or as half a cosine wave (arXiv:1608.03983, eq. (5), without restarts).

    Args:
        schedule: Of `SCHEDULES`.
        step: From 0.
        warmup: Steps.
        total: Steps of the run; without effect on "constant".
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = min((step - warmup) / max(total - warmup, 1), 1.0)
    return 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
