"""Lack of memory as one error, whatever the device says."""

import weakref

import pytest
import torch

from cldm.out_of_memory import lack_of_memory_told

ON_CPU = "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"


@pytest.mark.parametrize("lack", [torch.OutOfMemoryError("9 GB"), RuntimeError(ON_CPU), MemoryError()])
def test_every_kind_gets_the_advice(lack):
    with pytest.raises(MemoryError, match=r"^out of memory: wait$") as raised, lack_of_memory_told("wait"):
        raise lack
    assert raised.value.__cause__ is lack
    with pytest.raises(MemoryError, match="ask for fewer images or a lower resolution"), lack_of_memory_told():
        raise lack


@pytest.mark.parametrize(
    "other", [RuntimeError("sizes do not match"), ValueError("out of memory"), KeyboardInterrupt()]
)
def test_other_errors_pass_as_they_are(other):
    with pytest.raises(type(other)) as raised, lack_of_memory_told():
        raise other
    assert raised.value is other


def test_what_the_failed_work_held_is_free_while_the_error_is_still_looked_at():
    held = []

    def work():
        activations = torch.zeros(3)
        held.append(weakref.ref(activations))
        raise RuntimeError("CUDA error: out of memory")

    with pytest.raises(MemoryError) as error, lack_of_memory_told():
        work()
    assert isinstance(error.value.__cause__, RuntimeError)
    assert held[0]() is None
