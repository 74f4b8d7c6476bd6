"""Draws a control map of one scene for every app: python test_imgs/make_maps.py [--output FOLDER].

They are what the apps' first examples show on the miniature, 128 pixels wide as its images are.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cldm.apps import reverse_channels
from cldm.shapes import Scene
from training.mini.maps import MAPS

SCENE = Scene("star", "light coral", "navy", (0.5, 0.52), 0.4, angle=0.15)


def maps() -> dict[str, np.ndarray]:
    """By the apps' names, uint8 RGB (128, 128, 3), as people bring maps: normals as red, green and blue."""
    drawn = {name: draw(SCENE, None) for name, draw in MAPS.items()}
    drawn["normal"] = reverse_channels(drawn["normal"])
    drawn["scribble_interactive"] = drawn["scribble"]
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "maps", help="folder; maps are kept")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawn in maps().items():
        file = folder / f"{name}.png"
        if file.exists():
            print(f"{file} is there; delete it to have it drawn again")
            continue
        Image.fromarray(drawn).save(file.with_suffix(".tmp"), "PNG", optimize=True)
        file.with_suffix(".tmp").replace(file)
        print(file)


if __name__ == "__main__":
    main()
