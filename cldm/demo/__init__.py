"""The page of any app, and how it is started; of the project, only this package and gradio_annotator.py know gradio."""

import argparse
import sys
from collections.abc import Sequence

from cldm.apps import Demo, Slider, black_and_white, invert, reverse_channels, thicken_and_invert, unchanged
from cldm.demo.page import build
from cldm.demo.serving import add_serving_flags, message, new_page, serve
from cldm.runner import Machine, Runner

__all__ = [
    "Demo",
    "Slider",
    "add_serving_flags",
    "black_and_white",
    "build",
    "invert",
    "main",
    "message",
    "new_page",
    "reverse_channels",
    "serve",
    "thicken_and_invert",
    "unchanged",
]


def main(demo: Demo, arguments: Sequence[str] | None = None) -> None:
    """Start an app and serve it until it is interrupted.

    Args:
        demo: The app.
        arguments: Of the command line, by default those of this process.
    """
    flags = _parser(demo).parse_args(arguments)
    runner = Runner(
        demo,
        Machine(
            checkpoints=tuple(flags.checkpoint),
            config=flags.config,
            device=flags.device,
            precision=flags.precision,
            save_memory=flags.save_memory,
            detector=flags.detector if demo.weights else None,
        ),
    )
    if notice := runner.notice():
        print(notice.replace("**", "").replace("`", ""), file=sys.stderr)
    serve(build(runner), flags)


def _parser(demo: Demo) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=demo.title)
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        default=[],
        metavar="FILE",
        help="weights: one file with everything, or a Stable Diffusion and a ControlNet; by default "
        f"models/control_sd15_{demo.control}, or else the bundled miniature",
    )
    parser.add_argument("--config", metavar="YAML", help="architecture; by default that of Stable Diffusion 1.5")
    if demo.weights:
        parser.add_argument(
            "--detector",
            metavar="FILE",
            help="the detector's weights, a file or its folder; by default annotator/ckpts",
        )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="of the networks; auto, the default, is float16 on CUDA and float32 elsewhere",
    )
    parser.add_argument(
        "--save-memory",
        action="store_true",
        help="what is not in use leaves the accelerator, and images are decoded in tiles",
    )
    add_serving_flags(parser)
    return parser
