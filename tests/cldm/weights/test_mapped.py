"""Weights that are given back to their file for a while: gone from memory meanwhile, and the same afterwards."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cldm.weights.mapped import let_go, mapped_tensors

BYTES = 1 << 28


def networks(tensors: dict[str, Tensor]) -> dict[str, nn.Linear]:
    """One without bias for each tensor, by the first part of its name."""
    made = {}
    for name, tensor in tensors.items():
        with torch.device("meta"):
            layer = nn.Linear(*reversed(tensor.shape), bias=False)
        layer.load_state_dict({"weight": tensor}, assign=True)
        made[name.partition(".")[0]] = layer.requires_grad_(False)
    return made


@pytest.fixture
def file(tmp_path) -> Path:
    tensors = {"one.weight": torch.arange(6.0).view(2, 3), "two.weight": torch.arange(8.0).view(2, 4)}
    save_file(tensors, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_weights_are_gone_for_a_while_and_then_the_same(file):
    parts = networks(mapped_tensors(file))
    parameter = parts["one"].weight
    for _ in range(2):
        with let_go(parts["one"]):
            assert parameter.untyped_storage().nbytes() == 0
            assert parts["two"](torch.ones(4)).tolist() == [6, 22]
        assert parts["one"].weight is parameter
        assert parts["one"](torch.ones(3)).tolist() == [3, 12]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell resident memory so")
def test_the_memory_is_free_meanwhile(tmp_path):
    width = BYTES // 2 // 4 // 1024
    tensors = {f"{name}.weight": torch.ones(1024, width) for name in ("one", "two")}
    save_file(tensors, tmp_path / "large.safetensors")
    parts = networks(mapped_tensors(tmp_path / "large.safetensors"))
    del tensors

    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("RssFile")).split()[1])

    unread = resident()
    assert sum(float(part.weight.sum()) for part in parts.values()) == BYTES / 4
    assert resident() - unread > 0.9 * BYTES
    with let_go(parts["one"]):
        assert resident() - unread < 0.6 * BYTES
    assert resident() - unread < 0.6 * BYTES  # mapped again, and not read yet


def test_what_was_changed_converted_or_copied_stays(file):
    changed, converted = networks(mapped_tensors(file)).values()
    changed.weight.add_(1)
    converted.weight.data = converted.weight.data.double()
    copied = nn.Linear(2, 2)
    with let_go(changed, converted, copied):
        assert changed(torch.ones(3)).tolist() == [6, 15]
        assert converted(torch.ones(4).double()).tolist() == [6, 22]
        assert copied.weight.numel() == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_was_changed_behind_pytorchs_back_stays(tmp_path, dtype):
    original = torch.randn(64, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_file({"one.weight": original, "two.weight": original.clone()}, tmp_path / "weights.safetensors")
    added, copied = networks(mapped_tensors(tmp_path / "weights.safetensors")).values()
    low_rank = (torch.arange(1.0, 65)[:, None] @ torch.arange(1.0, 49)[None] / 100).to(dtype)
    for _ in range(2):
        added.weight.data += low_rank
        copied.weight.data.copy_(2 * added.weight)
        expected = added.weight.clone(), copied.weight.clone()
        with let_go(added, copied):
            pass
        assert torch.equal(added.weight, expected[0])
        assert torch.equal(copied.weight, expected[1])


def test_a_tensor_that_is_used_in_another_shape_comes_back_in_it(tmp_path):
    save_file({"one.weight": torch.arange(6.0).view(2, 3)}, tmp_path / "weights.safetensors")
    layer = nn.Conv2d(3, 2, 1, bias=False)
    weight = mapped_tensors(tmp_path / "weights.safetensors")["one.weight"]
    layer.load_state_dict({"weight": weight[:, :, None, None]}, assign=True)
    with let_go(layer):
        assert layer.weight.numel() == 0
    assert layer(torch.ones(1, 3, 1, 1)).flatten().tolist() == [3, 12]


def test_they_come_back_after_an_error_too(file):
    part = networks(mapped_tensors(file))["one"]
    with pytest.raises(KeyboardInterrupt), let_go(part):
        raise KeyboardInterrupt
    assert part(torch.ones(3)).tolist() == [3, 12]


@pytest.mark.parametrize("act", ["remove", "replace"])
def test_they_stay_if_the_file_is_another_by_then(file, tmp_path, act):
    part = networks(mapped_tensors(file))["one"]
    if act == "remove":
        file.unlink()
    else:
        save_file({"one.weight": torch.zeros(2, 3)}, tmp_path / "new.safetensors")
        os.replace(tmp_path / "new.safetensors", file)
    with let_go(part):
        assert part(torch.ones(3)).tolist() == [3, 12]


def test_a_file_that_is_replaced_meanwhile_is_an_error(file, tmp_path):
    part = networks(mapped_tensors(file))["one"]
    save_file({"one.weight": torch.zeros(2, 3)}, tmp_path / "new.safetensors")
    with (
        pytest.raises(RuntimeError, match=r"weights.safetensors was replaced or removed .* load it again"),
        let_go(part),
    ):
        os.replace(tmp_path / "new.safetensors", file)
