"""Build the objects that a yaml names, check their parameters, and choose the device they live on."""

import difflib
import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch


def get_obj_from_str(path: str) -> Any:
    """The class or function at a dotted path such as `cldm.cldm.ControlLDM`.

    Raises:
        ValueError: If the module or the name in it does not exist.
    """
    module_name, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ModuleNotFoundError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"cannot find the target {path!r} of a config: {error}; check its spelling") from error


def instantiate_from_config(config: Mapping[str, Any], **overrides: Any) -> Any:
    """Call `config["target"]` with `config["params"]` and `overrides`.

    Raises:
        ValueError: If there is no target, it cannot be found, or it does not take one of the parameters.
    """
    if "target" not in config:
        raise ValueError(f"expected a config with the key 'target', got the keys {list(config)}")
    target = get_obj_from_str(config["target"])
    if not callable(target):
        raise ValueError(
            f"expected a target that is a class or function, got {config['target']!r}, a {type(target).__name__}"
        )
    params = {**(config.get("params") or {}), **overrides}
    return called(target, params, config["target"])


def called(target: Callable[..., Any], params: Mapping[str, Any], name: str) -> Any:
    """What `target(**params)` gives.

    Raises:
        ValueError: If it does not take one of the parameters, or it or a class that it hands them on to lacks one;
            says `name`.
    """
    try:
        inspect.signature(target).bind(**params)
    except TypeError as error:
        raise ValueError(f"{name}: {error}; its parameters are {inspect.signature(target)}") from error
    try:
        return target(**params)
    except TypeError as error:
        known = _parameters(target) if inspect.isclass(target) else {}
        lacking = [p.name for p in known.values() if p.default is p.empty and p.name not in params]
        missing = [name for name in lacking if f"'{name}'" in str(error)]
        if not missing:
            raise
        raise ValueError(
            f"{name}: missing {', '.join(missing)}; its parameters are {', '.join(known)}, got {', '.join(params)}"
        ) from error


def parameter_names(kind: type) -> list[str]:
    """What a class takes by name when it is made, with what its bases take."""
    return list(_parameters(kind))


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Those parameters by name; where a base has one of the same name, the class's own."""
    found: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__:
        for parameter in inspect.signature(base.__init__).parameters.values():
            if parameter.name != "self" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, parameter)
    return found


def check_neutral(
    network: str, given: Mapping[str, Any], neutral: Mapping[str, Sequence[Any]], known: Iterable[str]
) -> None:
    """Check parameters that published configs may have and a network has not: they must ask for nothing.

    Args:
        network: Its name, for messages.
        given: Parameters that it does not have, by name.
        neutral: Name -> values under which the network is built as it is built here.
        known: Names of the parameters that it has.

    Raises:
        ValueError: If a parameter asks for something, or there is none of that name.
    """
    names = [*known, *neutral]
    for name, value in given.items():
        if name not in neutral:
            close = difflib.get_close_matches(name, names, 1)
            advice = f"is {close[0]} meant?" if close else f"its parameters are {', '.join(names)}"
            raise ValueError(f"{network} has no parameter {name}, got {_in_yaml(value)} for it; {advice}")
        if value not in neutral[name]:
            expected = " or ".join(_in_yaml(allowed) for allowed in neutral[name])
            raise ValueError(f"{network}: {name} must be {expected}, as it is built here, got {_in_yaml(value)}")


def _in_yaml(value: Any) -> str:
    return json.dumps(value, default=str)


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device of that name; "auto" is the first that is there of cuda, mps and cpu.

    Raises:
        ValueError: If the name is no device, or this machine does not have it.
    """
    if str(device) == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {device!r} cannot be used here: {error}; use auto, cpu, cuda, cuda:N or mps"
        ) from error
    return chosen
