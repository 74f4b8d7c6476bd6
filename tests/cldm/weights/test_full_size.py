"""Memory that full-size checkpoints take: mapped pages are not counted, pages of one's own are."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cldm.weights.saving import save_weights
from parity import published_names

ROOT = Path(__file__).parents[3]
GB = 10**9

PEAK = """
import re, sys, threading, time
from pathlib import Path
peak = 0
def private():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
def watch():
    global peak
    while True:
        peak = max(peak, private())
        time.sleep(0.01)
import torch
start = private()
threading.Thread(target=watch, daemon=True).start()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """For gigabytes that nobody needs afterwards; pytest would keep those in its own folders."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def run(code: str) -> dict[str, float]:
    """What `code` prints last, as JSON, in a process of its own that watches its private memory as `peak`."""
    done = subprocess.run([sys.executable, "-c", PEAK + code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def published(version: str, prefixes: tuple[str, ...] = ("",)) -> dict[str, torch.Tensor]:
    """Tensors of the published names and shapes; the values do not matter, but are not all the same."""
    names = {n: s for n, s in published_names(f"control_{version}").items() if n.startswith(prefixes)}
    torch.manual_seed(0)
    line = torch.randn(10**6)
    tensors = {}
    for name, (dtype, shape) in names.items():
        count = torch.Size(shape).numel()
        tensors[name] = line.repeat(count // len(line) + 1)[:count].reshape(shape).to(dtype)
    return tensors


@pytest.mark.slow
def test_sd15_with_control_is_mapped_into_a_ready_model(folder):
    path = save_weights(published("sd15"), folder / "control_sd15.safetensors")
    assert path.stat().st_size > 5.7 * GB
    code = f"""
from cldm.model import load_model
model = load_model("models/cldm_v15.yaml", {str(path)!r}, device="cpu")
assert sum(p.numel() for p in model.parameters()) > 1.4e9
import json; print(json.dumps({{"peak": peak - start}}))
"""
    peak = run(code)["peak"]
    print(f"private memory on top of what importing torch takes: {peak / GB:.2f} GB")
    assert peak < 1 * GB


@pytest.mark.slow
@pytest.mark.parametrize("output", ["ini.safetensors", "ini.ckpt"])
def test_add_control_to_v1_5_pruned_stays_under_8_gb(folder, output):
    base = {n: t for n, t in published("sd15").items() if not n.startswith("control_model.")}
    unet = {n: t for n, t in base.items() if n.startswith("model.")}
    averages = {"model_ema." + n.removeprefix("model.").replace(".", ""): t.clone() for n, t in unet.items()}
    path = folder / "v1-5-pruned.ckpt"
    torch.save({"state_dict": {**base, **averages}, "global_step": 840000}, path)
    del base, unet, averages
    assert path.stat().st_size > 7.6 * GB
    code = f"""
from pathlib import Path
from cldm.weights.command_line import add_control_main
add_control_main(None, Path("models/cldm_v15.yaml"), [{str(path)!r}, {str(folder / output)!r}])
import json; print(json.dumps({{"peak": peak}}))
"""
    peak = run(code)["peak"]
    print(f"peak private memory to {output}: {peak / GB:.2f} GB")
    assert peak < 8 * GB
    assert (folder / output).stat().st_size > 5.7 * GB
