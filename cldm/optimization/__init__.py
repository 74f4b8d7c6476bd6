"""How weights are changed by their gradients: the optimizer, when it steps, and the course of its learning rate."""

from cldm.optimization.configure import Optimization, configure, refuse_in_backward

__all__ = ["Optimization", "configure", "refuse_in_backward"]
