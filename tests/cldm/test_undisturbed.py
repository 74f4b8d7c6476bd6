"""What a look into a run leaves as it was, and which errors it outlives."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from cldm.undisturbed import is_lack_of_memory, surviving_full_disk, surviving_lack_of_memory, undisturbed


def test_modes_gradients_and_random_numbers_are_as_before_even_after_an_error():
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout().eval())
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with contextlib.suppress(ZeroDivisionError), undisturbed(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        torch.rand(5)
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()
    assert torch.equal(torch.rand(3), expected)


def test_a_real_allocation_that_fails_is_known():
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_lack_of_memory(failed.value)


def test_what_memory_has_nothing_to_do_with_is_raised():
    assert not is_lack_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_lack_of_memory(ValueError("out of memory"))
    with pytest.raises(ZeroDivisionError), surviving_lack_of_memory("This is"):
        raise ZeroDivisionError


def test_the_rest_of_the_block_is_left_out_with_a_warning():
    reached = []

    def work() -> None:
        with surviving_lack_of_memory("This is"):
            reached.append("before")
            torch.empty(2**60, dtype=torch.uint8)
            reached.append("after")

    with pytest.warns(UserWarning, match=r"^This is left out, since memory does not do \(.*allocate"):
        work()
    assert reached == ["before"]


def test_numpys_lack_of_memory_counts():
    with pytest.raises(MemoryError) as failed:
        np.empty(2**60, np.uint8)
    assert is_lack_of_memory(failed.value)


def test_files_that_cannot_be_written_are_left_out_with_a_warning():
    told = pytest.warns(UserWarning, match=r"^This is left out, since a file could not be written \(.*No space left")
    with told, surviving_full_disk("This is"), open("/dev/full", "w") as file:
        file.write("x" * 10**5)
    with pytest.raises(ZeroDivisionError), surviving_full_disk("This is"):
        raise ZeroDivisionError
