"""What a denoising step costs in arithmetic: reuse saves, and the command prints it."""

import subprocess
import sys

from bench.flops import table

CONFIG = "models/cldm_mini.yaml"


def test_every_reuse_saves_and_none_costs():
    rows = table(CONFIG, 128)
    original, reused, shared, hidden, two, none, hint, keys = rows.values()
    assert original > reused > shared > hidden > none
    assert two > shared
    assert original - reused == 2 * hint + keys  # in both passes, of which each has its own prompt
    assert reused - shared > 0.01 * original


def test_the_command_prints_a_table():
    done = subprocess.run(
        [sys.executable, "-m", "bench.flops", "--config", CONFIG, "--side", "128"], capture_output=True, text=True
    )
    assert "| everything anew, two passes (the original) | 0.0" in done.stdout, done.stderr
    assert "| 100.0% |" in done.stdout
