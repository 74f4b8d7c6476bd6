"""Parts that visit a device: there while in use, and back without a copy."""

import pytest
import torch
from torch import nn

from cldm.residency import on_device

META = torch.device("meta")
"""Stands for an accelerator that every machine has; it cannot compute."""


def test_a_part_is_there_only_for_a_while_and_comes_back_without_a_copy():
    part = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in part.state_dict().items()}
    with on_device(META, part):
        assert {tensor.device.type for tensor in part.state_dict().values()} == {"meta"}
    assert {name: tensor.data_ptr() for name, tensor in part.state_dict().items()} == {
        name: address for name, (address, _) in before.items()
    }
    assert all(torch.equal(tensor, before[name][1]) for name, tensor in part.state_dict().items())


def test_it_comes_back_after_an_error_too():
    part = nn.Linear(2, 2)
    with pytest.raises(KeyboardInterrupt), on_device(META, part):
        raise KeyboardInterrupt
    assert part.weight.device.type == "cpu"


def test_what_is_there_already_is_left_alone():
    part = nn.Linear(2, 2)
    with on_device(torch.device("cpu"), part):
        address = part.weight.data_ptr()
    assert part.weight.data_ptr() == address
