"""Time the detectors beside those of controlnet_aux, on the CPU, in turns, with the same random weights.

Run `python -m bench.detectors [NAME ...]` in the project's root. The best time of all turns counts, since everything
else that a machine does only adds to it. Ends with an error if one of ours is slower.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import nn

Detector = Callable[[np.ndarray], Any]


class Pair(NamedTuple):
    """The same work, done by our detector and by theirs."""

    ours: Detector
    theirs: Detector


def canny(folder: Path, side: int) -> Pair:
    from controlnet_aux.canny import CannyDetector as Theirs

    from annotator.canny import CannyDetector

    ours, theirs = CannyDetector(), Theirs()
    return Pair(lambda image: ours(image, 100, 200), lambda image: theirs(image, 100, 200, side, side, "np"))


def hed(folder: Path, side: int) -> Pair:
    from controlnet_aux.hed import ControlNetHED_Apache2
    from controlnet_aux.hed import HEDdetector as Theirs

    from annotator.hed import HEDdetector
    from annotator.hed.hed_network import HEDNetwork

    weights = random_checkpoint(HEDNetwork(), folder / "ControlNetHED.pth")
    ours, theirs = HEDdetector(folder, "cpu"), Theirs(loaded(ControlNetHED_Apache2(), weights))
    return Pair(ours, lambda image: theirs(image, side, side, output_type="np"))


def hed_nms(folder: Path, side: int) -> Pair:
    from controlnet_aux.util import nms as theirs

    from annotator.hed import nms

    return Pair(lambda image: nms(image[:, :, 0], 127, 3.0), lambda image: theirs(image[:, :, 0], 127, 3.0))


def mlsd(folder: Path, side: int) -> Pair:
    from controlnet_aux.mlsd import MLSDdetector as Theirs
    from controlnet_aux.mlsd import MobileV2_MLSD_Large

    from annotator.mlsd import MLSDdetector
    from annotator.mlsd.mlsd_network import MLSDLarge

    weights = random_checkpoint(MLSDLarge(), folder / "mlsd_large_512_fp32.pth")
    ours, theirs = MLSDdetector(folder, "cpu"), Theirs(loaded(MobileV2_MLSD_Large(), weights))
    return Pair(ours, lambda image: theirs(image, 0.1, 0.1, side, side, output_type="np"))


def openpose(folder: Path, side: int) -> Pair:
    from controlnet_aux.open_pose import OpenposeDetector as Theirs
    from controlnet_aux.open_pose.body import Body
    from controlnet_aux.open_pose.model import bodypose_model

    from annotator.openpose import OpenposeDetector
    from annotator.openpose.pose_machines import BodyNetwork

    weights = random_checkpoint(BodyNetwork(), folder / "body_pose_model.pth")
    network = bodypose_model()  # its names have a part more
    body = Body.__new__(Body)
    body.model = loaded(network, {name: weights[name.split(".", 1)[1]] for name in network.state_dict()})
    ours, theirs = OpenposeDetector(folder, device="cpu"), Theirs(body)
    return Pair(ours, lambda image: theirs(image, side, side, output_type="np"))


def openpose_persons(folder: Path, side: int) -> Pair:
    """From what the body network says of ten people to persons, resizing included; both must find the ten."""
    from controlnet_aux.open_pose.body import Body

    from annotator.openpose.persons import find_persons
    from tests.openpose_scenes import body_answers, crowd, network_outputs

    height, width = scene(side).shape[:2]
    fields, heatmaps = network_outputs(crowd(10, height, width), height, width)
    body = Body.__new__(Body)
    body.model = body_answers(fields, heatmaps)

    def ten(persons: np.ndarray) -> None:
        if len(persons) != 10:
            raise RuntimeError(f"expected ten persons, got {len(persons)}")

    return Pair(lambda image: ten(find_persons(fields, heatmaps, height, width)[1]), lambda image: ten(body(image)[1]))


def midas(folder: Path, side: int) -> Pair:
    from controlnet_aux.midas import MidasDetector as Theirs
    from controlnet_aux.midas import MiDaSInference
    from controlnet_aux.midas.midas.dpt_depth import DPTDepthModel

    from annotator.midas import FILE, MidasDetector

    random_checkpoint(DPTDepthModel(), folder / FILE)
    ours, theirs = MidasDetector(folder, "cpu"), Theirs(MiDaSInference("dpt_hybrid", str(folder / FILE)))
    options = {"depth_and_normal": True, "detect_resolution": side, "image_resolution": side}
    return Pair(ours, lambda image: theirs(image, **options))


PAIRS: dict[str, Callable[[Path, int], Pair]] = {
    "canny": canny,
    "hed": hed,
    "hed.nms": hed_nms,
    "mlsd": mlsd,
    "midas": midas,
    "openpose": openpose,
    "openpose.persons": openpose_persons,
}
"""Name of a row -> what makes its two detectors, given a folder for checkpoints and the image's short side."""


def random_checkpoint(network: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """Write a checkpoint of `network` as it was initialised, and return what is in it."""
    weights = network.state_dict()
    torch.save(weights, path)
    return weights


def loaded(network: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    network.load_state_dict(weights)
    return network.eval()


def scene(side: int) -> np.ndarray:
    """Soft colours with a few hard edges, uint8 RGB, (side, side * 5 / 4 to a multiple of 64, 3)."""
    rng = np.random.default_rng(0)
    width = round(side * 1.25 / 64) * 64
    image = cv2.resize(rng.integers(0, 256, (12, 15, 3), np.uint8), (width, side), interpolation=cv2.INTER_CUBIC)
    for corners in rng.integers(0, side, (8, 4, 2), np.int32):
        cv2.fillConvexPoly(image, corners, rng.integers(0, 256, 3).tolist())
    return image


def best_times(pair: Pair, image: np.ndarray, seconds: float) -> tuple[float, float]:
    """Seconds that ours and theirs take, the best of as many turns as fit into `seconds`, at least three."""
    for detect in pair:  # the first call allocates memory and chooses kernels
        detect(image)
    turns: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(turns) < 3 or time.perf_counter() < end:
        turn = []
        for detect in pair:
            start = time.perf_counter()
            detect(image)
            turn.append(time.perf_counter() - start)
        turns.append(turn)
    ours, theirs = np.array(turns).min(axis=0)
    return float(ours), float(theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"rows to run, of {', '.join(PAIRS)}; default: all")
    parser.add_argument("--side", type=int, default=512, help="short side of the image, a multiple of 64")
    parser.add_argument("--seconds", type=float, default=20, help="for each row, at least")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    if unknown := set(options.names) - set(PAIRS):
        parser.error(f"no such rows: {', '.join(sorted(unknown))}; there are {', '.join(PAIRS)}")
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)

    image = scene(options.side)
    print(f"{image.shape[0]} x {image.shape[1]} pixels, {options.threads} threads, torch {torch.__version__}\n")
    print("| detector | ours, ms | controlnet_aux, ms | theirs / ours |\n|---|---|---|---|")
    slower = []
    for name in options.names or PAIRS:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = best_times(PAIRS[name](Path(folder), options.side), image, options.seconds)
        print(f"| {name} | {1000 * ours:.1f} | {1000 * theirs:.1f} | {theirs / ours:.2f} |", flush=True)
        if ours > theirs:
            slower.append(name)
    if slower:
        sys.exit(f"slower than controlnet_aux: {', '.join(slower)}")


if __name__ == "__main__":
    main()
