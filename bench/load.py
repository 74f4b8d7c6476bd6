"""Time a full-size checkpoint from file to ready model beside building the same model with its initialisation.

Run `python -m bench.load` in the project's root. It writes 5.7 GB to a temporary folder, which stay in the page cache
if there is memory for them. Each turn is a process of its own, so that neither profits from what the other has
imported; importing is not counted. The best of three turns counts. Ends with an error above a third.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from cldm.model import create_model
from cldm.weights.blueprint import Blueprint
from cldm.weights.saving import save_weights

_ALLOWED = 1 / 3

_BUILD = """
from cldm.model import read_config
from ldm.util import instantiate_from_config
config = read_config({config!r})
instantiate_from_config(read_config("models/cldm_mini.yaml"))  # imports what is imported late
start = time.perf_counter()
instantiate_from_config(config)
"""
_LOAD = """
from cldm.model import load_model, read_config
from ldm.util import instantiate_from_config
instantiate_from_config(read_config("models/cldm_mini.yaml"))
start = time.perf_counter()
load_model({config!r}, {path!r}, device="cpu")
"""


def seconds(code: str) -> float:
    """What one turn takes."""
    program = f"import time\n{code}\nprint(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def write_random_checkpoint(config: str, path: Path) -> None:
    """A file with everything that the config describes."""
    blueprint = Blueprint.of(create_model(config), config)
    line = torch.randn(10**6)
    weights = {}
    for name, shape in blueprint.shapes.items():
        count = torch.Size(shape).numel()
        weights[name] = line.repeat(count // len(line) + 1)[:count].reshape(shape)
    save_weights(weights, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="models/cldm_v15.yaml")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the checkpoint, by default the system's temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "weights.safetensors"
        write_random_checkpoint(options.config, path)
        size = path.stat().st_size / 1e9
        programs = {"build": _BUILD, "load": _LOAD}
        turns = [
            {name: seconds(code.format(config=options.config, path=str(path))) for name, code in programs.items()}
            for _ in range(options.turns)
        ]
    build, load = (min(turn[name] for turn in turns) for name in programs)
    print(f"{options.config}, {size:.1f} GB, torch {torch.__version__}\n")
    print("| build and initialise, s | load, s | load / build |\n|---|---|---|")
    print(f"| {build:.2f} | {load:.2f} | {load / build:.3f} |")
    if load > _ALLOWED * build:
        sys.exit(f"loading takes more than {_ALLOWED:.2f} of the time of building")


if __name__ == "__main__":
    main()
