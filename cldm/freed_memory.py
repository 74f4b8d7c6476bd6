"""Memory that a process on a CPU keeps once it is freed, as PyTorch does on accelerators.

Every step frees gigabytes, its gradients and activations, and the next one needs as much; so do the encoders. The C
library gives large blocks back to the system, which clears their pages when they are taken again; that takes longer
than it looks, on virtual machines above all. See docs/performance.md for figures.
"""

import ctypes
import os
import platform

import torch

from ldm.util import choose_device

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`, as in malloc.h."""

_NEVER = -1


def keep_freed_memory(device: str | torch.device) -> bool:
    """Have freed memory stay with this process if it computes on a CPU; returns whether that is so from now on.

    Only glibc can be told. Where the environment tells it something itself (MALLOC_*, GLIBC_TUNABLES), that stands.

    Args:
        device: As `choose_device` takes it.
    """
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if choose_device(device).type != "cpu" or told or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_TRIM_THRESHOLD, _NEVER) and mallopt(_MMAP_MAX, 0))


def give_back_freed_memory() -> None:
    """Give the system what this process has kept so far, where that can be told; it goes on keeping."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
