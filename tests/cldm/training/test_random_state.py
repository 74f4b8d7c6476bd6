"""Random states of a process: taken, carried through a file, set again."""

import random

import numpy as np
import torch

from cldm.training.random_state import random_state, set_random_state


def draw() -> tuple:
    np.random.standard_normal()  # noqa: NPY002 (leaves a number in store, which is part of the state)
    return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002


def test_the_same_numbers_follow_after_a_file(tmp_path):
    np.random.standard_normal()  # noqa: NPY002
    torch.save(random_state(), tmp_path / "random.pt")
    expected = draw()
    assert draw() != expected
    set_random_state(torch.load(tmp_path / "random.pt", weights_only=True))
    assert draw() == expected
