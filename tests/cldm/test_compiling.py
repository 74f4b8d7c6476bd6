"""What the compiler is told; that compiled networks compute the same is seen in tests/cldm/training/test_cost.py."""

import pytest
import torch
from torch import nn

from cldm.compiling import compile_network


@pytest.mark.parametrize(("device", "told"), [("cpu", {"layout_optimization": False}), ("cuda:0", None)])
def test_layouts_stay_on_a_cpu(monkeypatch, device, told):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: calls.append(options) or function)
    network = nn.Linear(2, 2)
    compile_network(network, torch.device(device))
    assert calls == [{"options": told}]
    assert network(torch.ones(2)).shape == (2,)
