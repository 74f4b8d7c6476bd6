"""Build the objects that a yaml names, and choose the device they live on."""

import importlib
import inspect
from collections.abc import Mapping
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
    try:
        inspect.signature(target).bind(**params)
    except TypeError as error:
        raise ValueError(f"{config['target']}: {error}; its parameters are {inspect.signature(target)}") from error
    return target(**params)


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
