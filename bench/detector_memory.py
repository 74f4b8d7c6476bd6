"""Measure how much memory the detectors need for a large image, on the CPU, with made-up weights. Linux only.

Run `python -m bench.detector_memory [NAME ...]` in the project's root. Each detector has a process of its own, and what
counts is the highest resident size while it detects, above that of the process with the detector ready. OpenPose is
given what its network would say of ten people, since it refuses the noise that made-up weights give.
"""

import argparse
import ctypes
import gc
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from annotator.catalogue import CATALOGUE, Detector
from annotator.manifest import DETECTOR_FILES

_STATUS = Path("/proc/self/status")
_RESET_HIGHEST = "5"  # what clear_refs takes, see proc(5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CATALOGUE)}; default: all")
    parser.add_argument("--width", type=int, default=3840)
    parser.add_argument("--height", type=int, default=2160)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.names) - set(CATALOGUE):
        parser.error(f"no such detectors: {', '.join(sorted(unknown))}; there are {', '.join(CATALOGUE)}")
    if given.here:
        print(f"{measure(given.names[0], given.height, given.width):.0f}")
        return
    print(f"{given.width} x {given.height} pixels, torch {torch.__version__}\n\n| detector | MB |\n|---|---|")
    for name in given.names or CATALOGUE:
        size = ["--width", str(given.width), "--height", str(given.height)]
        command = [sys.executable, "-m", "bench.detector_memory", name, "--here", *size]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        print(f"| {name} | {done.stdout.strip()} |", flush=True)


def measure(name: str, height: int, width: int) -> float:
    """Megabytes (10**6) that detecting takes at most, above the detector itself and the image."""
    entry = CATALOGUE[name]
    with tempfile.TemporaryDirectory() as folder:
        _write_weights(entry.weights[:1], Path(folder))
        detector = entry.build(folder, "cpu")
    if name == "openpose":
        _give_crowd(detector, height, width)
    cells = np.random.default_rng(0).integers(0, 256, (9, 16, 3), np.uint8)
    image = np.ascontiguousarray(np.resize(cells.repeat(height // 9, 0).repeat(width // 16, 1), (height, width, 3)))
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what loading left would be used again, and not be counted
    before = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text(_RESET_HIGHEST)
    entry.detect(detector, image, {})
    return (_kilobytes("VmHWM") - before) * 1024 / 1e6


def _write_weights(names: tuple[str, ...], folder: Path) -> None:
    from tests.parity import filled_state_dict, published_names

    for name in names:
        file = DETECTOR_FILES[name].file
        torch.save(filled_state_dict(published_names(file)), folder / file)


def _give_crowd(detector: Detector, height: int, width: int) -> None:
    from tests.openpose_scenes import body_answers, crowd, network_outputs

    detector.body_network = body_answers(*network_outputs(crowd(10, height, width), height, width))


def _kilobytes(field: str) -> int:
    return int(re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text())[1])


if __name__ == "__main__":
    main()
