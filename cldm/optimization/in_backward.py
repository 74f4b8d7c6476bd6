"""An optimizer that steps each weight during the backward pass, so that no two gradients are in memory at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class InBackward(Optimizer):
    """Steps `optimizer` for each parameter as soon as its gradient is complete, and lets the gradient go.

    This happens in backward passes inside of `step(closure)`, as Lightning calls it; they must run once a step and give
    gradients that are final. Whatever looks at all gradients before the step, or adds to them, is excluded: clipping,
    accumulation, float16's loss scaling, and the averaging of several processes. The weights are to the bit those of
    `optimizer.step()`, whose state is this one's, so that a run can go on with or without.

    Args:
        optimizer: Whose step of one parameter does not depend on others'.

    Attributes:
        held: True, set before a backward pass, leaves weights and gradients alone in this one.
        finite: Whether the gradients that the latest step used were, a bool tensor on their device.
    """

    def __init__(self, optimizer: Optimizer):
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.optimizer = optimizer
        self.held = False
        self.finite = torch.tensor(True)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Run `closure`, the backward pass included, stepping meanwhile; returns its value.

        Without a closure the gradients are there already, and `optimizer` steps as usual.
        """
        if closure is None:
            return self.optimizer.step()
        self.finite = torch.tensor(True, device=self.param_groups[0]["params"][0].device)
        hooks = [
            parameter.register_post_accumulate_grad_hook(self._step_one(group))
            for group in self.param_groups
            for parameter in group["params"]
        ]
        try:
            with torch.enable_grad():
                return closure()
        finally:
            self.held = False
            for hook in hooks:
                hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """That of `optimizer`."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `optimizer`'s or this one's `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        self.state, self.param_groups = self.optimizer.state, self.optimizer.param_groups

    def _step_one(self, group: dict[str, Any]) -> Callable[[Tensor], None]:
        def step(parameter: Tensor) -> None:
            if self.held:
                return
            self.finite &= parameter.grad.sum().isfinite()
            groups = self.optimizer.param_groups
            self.optimizer.param_groups = [{**group, "params": [parameter]}]
            try:
                self.optimizer.step()
            finally:
                self.optimizer.param_groups = groups
            parameter.grad = None

        return step
