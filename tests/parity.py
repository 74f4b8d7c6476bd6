"""Reference data for parity tests: published state-dict names, golden outputs, weights made from names.

Two implementations whose parameters carry the same published names get the same weights here, so their
outputs can be compared without any published checkpoint. `tests/data/names` lists, per published file,
a line `name dtype shape` for each tensor; `tests/data/golden` holds what independent implementations gave
with these weights (float32, CPU).
"""

import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

DATA = Path(__file__).parent / "data"
RELATIVE_ERROR = 1e-4  # max |ours - golden| / max |golden|; agreed for all golden files, never loosened


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of `tests/data/golden/<name>.npz`."""
    with np.load(DATA / "golden" / f"{name}.npz") as arrays:
        return dict(arrays)


def published_names(file: str) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Name -> (dtype, shape) of every tensor of the published `file`."""
    names = {}
    for line in (DATA / "names" / f"{file}.txt").read_text().splitlines():
        name, dtype, shape = line.split()
        names[name] = (getattr(torch, dtype), () if shape == "scalar" else tuple(map(int, shape.split("x"))))
    return names


def fill(name: str, shape: tuple[int, ...], salt: str = "open") -> Tensor:
    """Float32 values that depend on `name` alone.

    N(0, 1 / fan_in) for kernels and matrices, N(1, 0.01) for scales, N(0, 0.01) for other vectors and
    U(0.5, 1.5) for running variances; fan-in is all dimensions but the first.
    """
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"{salt}:{name}".encode())))
    count = math.prod(shape)
    if name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, count)
    else:
        normal = rng.standard_normal(count, dtype=np.float32)
        if len(shape) >= 2:
            values = normal / math.sqrt(count / shape[0])
        else:
            values = 0.1 * normal + (1 if name.endswith("weight") else 0)
    return torch.from_numpy(np.asarray(values, dtype=np.float32).reshape(shape))


def filled_state_dict(
    names: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], salt: str = "open"
) -> dict[str, Tensor]:
    """A state dict for published `names`, without the top-level schedule buffers."""
    state = {}
    for name, (dtype, shape) in names.items():
        if name.endswith("position_ids"):
            state[name] = torch.arange(shape[-1]).expand(*shape).clone()
        elif "." in name or name == "norm":
            state[name] = fill(name, shape, salt) if dtype is torch.float32 else torch.zeros(shape, dtype=dtype)
    return state


@torch.no_grad()
def fill_module(module: nn.Module, prefix: str = "", rename: Callable[[str], str] = str) -> None:
    """Fill all parameters and running statistics of `module` in place by their names, `prefix` put before.

    Raises:
        ValueError: If the module's state dict does not show one of its parameters.
    """
    parameters = dict(module.named_parameters())
    reached = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if name in parameters or name.endswith(("running_mean", "running_var")):
            tensor.copy_(fill(prefix + rename(name), tuple(tensor.shape)))
            reached.add(tensor.data_ptr())
    missed = [name for name, p in parameters.items() if p.data_ptr() not in reached]
    if missed:
        raise ValueError(f"not in the module's state dict, so not filled: {missed[:4]}")


def relative_error(ours: Tensor | np.ndarray, reference: Tensor | np.ndarray) -> float:
    """max |ours - reference| / max |reference|, after checking that the shapes are the same."""
    a, b = (np.asarray(v.detach().cpu() if isinstance(v, Tensor) else v, dtype=np.float64) for v in (ours, reference))
    assert a.shape == b.shape, f"shape {a.shape}, expected {b.shape}"
    return float(np.abs(a - b).max() / np.abs(b).max())


def assert_close(ours: Tensor | np.ndarray, reference: Tensor | np.ndarray, what: str = "output") -> None:
    """Agreement to the relative error that the golden files promise."""
    error = relative_error(ours, reference)
    assert error < RELATIVE_ERROR, f"{what}: relative error {error:.2e}, allowed {RELATIVE_ERROR:.0e}"


def assert_same_map(ours: np.ndarray, reference: np.ndarray, within: int = 1, share: float = 0.999) -> None:
    """uint8 maps agree: at least `share` of the values differ by at most `within`."""
    assert ours.dtype == reference.dtype == np.uint8
    assert ours.shape == reference.shape
    agreeing = (np.abs(ours.astype(int) - reference.astype(int)) <= within).mean()
    assert agreeing >= share, f"{agreeing:.5f} of the values agree, expected {share}"
