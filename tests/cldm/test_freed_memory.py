"""What becomes of freed memory, seen from outside a process."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cldm.freed_memory import keep_freed_memory

ROOT = Path(__file__).resolve().parents[2]
FREED = 200
SCRIPT = f"""
import psutil, torch
from cldm.freed_memory import give_back_freed_memory, keep_freed_memory
{{}}
before = psutil.Process().memory_info().rss
blocks = [torch.ones({FREED // 4} * 2**18) for _ in range(4)]
del blocks
{{}}
print((psutil.Process().memory_info().rss - before) >> 20)
"""


def left_of_it(call: str, then: str = "", **environment: str) -> int:
    """How many MB of 200 that are freed a process still has that has run `call` before, and `then` after it."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(call, then)],
        cwd=ROOT,
        env={**own, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_stays_with_the_process():
    assert left_of_it("") < FREED / 4
    assert left_of_it("assert keep_freed_memory('cpu')") > FREED * 3 / 4


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_it_is_given_back_when_asked_for():
    assert left_of_it("keep_freed_memory('cpu')", "give_back_freed_memory()") < FREED / 4


def test_what_the_environment_says_stands():
    assert left_of_it("assert not keep_freed_memory('cpu')", MALLOC_ARENA_MAX="2") < FREED / 4


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory("cpu")


def test_on_an_accelerator_nothing_is_changed(monkeypatch):
    monkeypatch.setattr("cldm.freed_memory.choose_device", torch.device)
    assert not keep_freed_memory("cuda")
