"""Modules that are built without weights, and get them from a file or, at the first use, from their initialisation.

Building Stable Diffusion initialises a billion numbers that a checkpoint then replaces. `deferred` builds on the meta
device instead, where tensors have shapes and no values. The result is what `build()` would give, with a gate in
front: it opens when weights are loaded, and otherwise initialises everything at the first look inside.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Module = TypeVar("Module", bound=nn.Module)

_CONTENTS = ("_parameters", "_buffers", "_modules")
"""Where a module keeps what is inside; every method of `nn.Module` that needs weights goes through these."""


def deferred(build: Callable[[], Module]) -> Module:
    """The module that `build()` makes, without memory for its weights until it is loaded or used.

    `load_state_dict`, moves to the CPU, `train`, `eval`, `requires_grad_`, printing, and setting plain attributes do
    not count as use. All else initialises the module on the CPU as `build` does.

    Args:
        build: Makes the module on the default device; it is called again if the weights must be initialised.
    """
    with torch.device("meta"), _WithoutInitialisation():
        module = build()
    module.__dict__["_build"] = build
    module.__class__ = _deferred_class(type(module))
    return module


def is_deferred(module: nn.Module) -> bool:
    """Whether the module has no weights yet."""
    return isinstance(module, _Deferred)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of everything in the module's state dict, without using a deferred one."""
    with _opened(module):
        return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def known_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers whose values follow from the configuration, such as noise schedules, by name."""
    with _opened(module):
        return {name: buffer for name, buffer in module.named_buffers() if not buffer.is_meta}


class HandedOver(dict[str, Tensor]):
    """Weights by name that know where they are from, and are saved as an ordinary dictionary.

    Attributes:
        source: Where the weights are from, for messages.
        metadata: Texts that stand beside them in their file, by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor], source: str, metadata: Mapping[str, str] | None = None):
        super().__init__(tensors)
        self.source = source
        self.metadata = dict(metadata or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), None, None, iter(self.items())  # saved files are for programs without this class


class _WithoutInitialisation(TorchFunctionMode):
    """`torch.nn.init` leaves tensors as they are, which takes a fifth of the time to build on the meta device."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return function(*args, **(kwargs or {}))


class _Deferred:
    """The gate: a base that comes before a module's own class for as long as it has no weights."""

    _ready_class: type[nn.Module]

    def __getattribute__(self, name: str) -> Any:
        if name in _CONTENTS:
            _initialise(self)
            return getattr(self, name)
        return object.__getattribute__(self, name)

    def __getattr__(self, name: str) -> Any:
        state = object.__getattribute__(self, "__dict__")
        if any(name in state[contents] for contents in _CONTENTS):
            _initialise(self)
            return getattr(self, name)
        return self._ready_class.__getattr__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module | Tensor):
            _initialise(self)
            setattr(self, name, value)
        else:
            self._ready_class.__setattr__(self, name, value)

    def __reduce_ex__(self, protocol: int) -> Any:
        _initialise(self)
        return self.__reduce_ex__(protocol)

    def __repr__(self) -> str:
        with _opened(self):
            return repr(self)

    def train(self, mode: bool = True) -> nn.Module:
        with _opened(self):
            return self.train(mode)

    def requires_grad_(self, requires_grad: bool = True) -> nn.Module:
        with _opened(self):
            return self.requires_grad_(requires_grad)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")  # where the weights will be

    def cpu(self) -> nn.Module:
        return self

    def cuda(self, device: Any = None) -> nn.Module:
        _initialise(self)
        return self.cuda(device)

    def to(self, *args: Any, **kwargs: Any) -> nn.Module:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is None and (device is None or device.type == "cpu"):
            return self
        _initialise(self)
        return self.to(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """As `nn.Module.load_state_dict`, without initialising what is then replaced.

        Args:
            state_dict: The tensors are copied.
            strict: Without it, the module is initialised first, since names may be missing.
            assign: Take the tensors themselves, whatever their precision, which needs no memory for a copy.
        """
        if not strict or _has_hidden_buffers(self):
            _initialise(self)
            return self.load_state_dict(state_dict, strict, assign)
        if not assign:
            state_dict = _converted(self, state_dict)
        with _opened(self):
            result = self.load_state_dict(state_dict, strict=True, assign=True)
        _open(self)
        return result


@cache
def _deferred_class(ready: type[nn.Module]) -> type[nn.Module]:
    return type(ready.__name__, (_Deferred, ready), {"__module__": ready.__module__, "_ready_class": ready})


@contextmanager
def _opened(module: Any) -> Iterator[None]:
    """Let a method look inside, where a deferred module has shapes only."""
    gate = type(module)
    module.__class__ = getattr(gate, "_ready_class", gate)
    try:
        yield
    finally:
        module.__class__ = gate


def _open(module: Any) -> None:
    """Make the module, which has its weights by now, an ordinary one."""
    module.__class__ = type(module)._ready_class
    del module.__dict__["_build"]
    for parameter in module.parameters():
        module.to(parameter.device)  # moves nothing: Lightning's modules remember the device they were built on
        break


def _initialise(module: Any) -> None:
    """Build the module anew with values, and take these over part by part."""
    with torch.device("cpu"):
        fresh = module.__dict__["_build"]()
    with _opened(module):
        for part, fresh_part in zip(module.modules(), fresh.modules(), strict=True):
            for name, parameter in fresh_part._parameters.items():
                if parameter is not None:
                    parameter.requires_grad_(part._parameters[name].requires_grad)
                part._parameters[name] = parameter
            part._buffers.update(fresh_part._buffers)
    _open(module)


def _has_hidden_buffers(module: Any) -> bool:
    """Whether some buffer is on the meta device that no state dict has."""
    with _opened(module):
        shown = set(module.state_dict())
        return any(buffer.is_meta and name not in shown for name, buffer in module.named_buffers())


def _converted(module: Any, state_dict: Mapping[str, Tensor]) -> HandedOver:
    """Copies of the tensors in the precision that the module is built in."""
    with _opened(module):
        wanted = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    converted = {
        name: tensor.detach().to("cpu", wanted.get(name, tensor.dtype), copy=True)
        for name, tensor in state_dict.items()
    }
    return HandedOver(converted, getattr(state_dict, "source", "the given state dict"))
