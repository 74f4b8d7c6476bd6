"""The page of any app, and how it is started; of the project, only this package and gradio_annotator.py know gradio."""

import argparse
import sys
from collections.abc import Sequence

from cldm.apps import Demo, Slider, black_and_white, invert, reverse_channels, thicken_and_invert, unchanged
from cldm.demo.page import build
from cldm.demo.serving import add_serving_flags, message, new_page, serve, uploaded
from cldm.machine import Machine, add_machine_flags
from cldm.runner import Runner

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
    "uploaded",
]


def main(demo: Demo, arguments: Sequence[str] | None = None) -> None:
    """Start an app and serve it until it is interrupted.

    Args:
        demo: The app.
        arguments: Of the command line, by default those of this process.
    """
    flags = _parser(demo).parse_args(arguments)
    runner = Runner(demo, Machine.of(flags))
    if notice := runner.notice():
        print(notice.replace("**", "").replace("`", ""), file=sys.stderr)
    serve(build(runner), flags)


def _parser(demo: Demo) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=demo.title)
    add_machine_flags(parser, f"control_sd15_{demo.control}", detector=bool(demo.weights))
    add_serving_flags(parser)
    return parser
