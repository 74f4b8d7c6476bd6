"""AdamW (Loshchilov & Hutter, arXiv:1711.05101) with moments in bfloat16: half of its memory."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

_CHUNK = 2**20  # numbers at a time in float32: as few as make a step's own memory negligible
_LOWER_HALF = 0xFFFF  # the bits of a float32 that bfloat16 has not


class AdamWBF16(Optimizer):
    """Steps in float32 from moments that are kept in bfloat16.

    The second moment changes by a thousandth a step with the usual `betas`, less than bfloat16 can say (a 256th), and
    rounded to the nearest it would never change at all. So it is rounded at random, up or down with the probability
    that makes it right on average (arXiv:1502.02551). Chance follows from (seed, step, number of the parameter), so
    that a resumed run is the same run.

    Args:
        params: As any optimizer's.
        lr: Learning rate.
        betas: Of the moving averages of the gradient and of its square.
        eps: Added to the root of the second moment.
        weight_decay: Share of a weight that is taken off at each step, times `lr`.
        seed: Of the rounding.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        seed: int = 0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "seed": seed})
        self._numbers = {p: n for n, p in enumerate(p for group in self.param_groups for p in group["params"])}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every parameter that has a gradient; the value of `closure`, which may compute them before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As any optimizer's, or AdamW's own; the moments stay in bfloat16, and the seed is this one's."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group.setdefault("seed", self.defaults["seed"])
        for state in self.state.values():
            state.update({name: state[name].bfloat16() for name in ("exp_avg", "exp_avg_sq")}, step=int(state["step"]))

    def _step_one(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        state["step"] += 1
        chance = _generator(parameter.device, group["seed"], state["step"], self._numbers[parameter])
        tensors = (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])
        rows = max(1, _CHUNK * len(parameter) // parameter.numel()) if parameter.ndim else 1
        for part in zip(*(t.split(rows) if t.ndim else (t,) for t in tensors), strict=True):
            _step_part(*part, state["step"], group, chance)


def _step_part(
    p: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: int, group: dict[str, Any], chance: Any
) -> None:
    beta1, beta2 = group["betas"]
    g = grad.float()
    m = exp_avg.float().lerp_(g, 1 - beta1)
    v = exp_avg_sq.float().mul_(beta2).addcmul_(g, g, value=1 - beta2)
    exp_avg.copy_(m)
    root = (v / (1 - beta2**step)).sqrt_().add_(group["eps"])
    exp_avg_sq.copy_(rounded_at_random(v, chance))
    p.mul_(1 - group["lr"] * group["weight_decay"])
    p.addcdiv_(m, root, value=-group["lr"] / (1 - beta1**step))


def rounded_at_random(x: Tensor, chance: torch.Generator) -> Tensor:
    """`x` (float32, finite) as one of the two bfloat16 numbers beside it, on average `x`."""
    noise = torch.empty(x.shape, dtype=torch.int32, device=x.device).random_(0, _LOWER_HALF + 1, generator=chance)
    bits = x.contiguous().view(torch.int32) + noise
    return (bits & ~_LOWER_HALF).view(torch.float32).bfloat16()


def _generator(device: torch.device, *numbers: int) -> torch.Generator:
    """Random numbers that follow from `numbers` alone."""
    (seed,) = np.random.SeedSequence(numbers).generate_state(1)  # torch's on the CPU takes 32 bits of it
    return torch.Generator(device).manual_seed(int(seed))
