"""Try the detectors on a picture: a page with a tab for each. Run with --help for options."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from annotator.catalogue import CATALOGUE, Detector, Entry, Option
from annotator.util import HWC3, resize_image
from cldm.demo import add_serving_flags, message, new_page, serve, uploaded
from cldm.out_of_memory import lack_of_memory_told
from cldm.runner import read_upload

TITLE = "Detectors of control maps"
_MOST_PIXELS = 4 * 1024 * 1024  # of an image as it is detected: a panorama four times as long as the largest square


class Detectors:
    """All detectors, each loaded when it is first used.

    Args:
        folder: With the files of weights; None is `annotator/ckpts/`.
        device: auto, cpu, cuda, cuda:N or mps.
    """

    def __init__(self, folder: Path | None = None, device: str = "auto") -> None:
        self._folder, self._device = folder, device
        self._loaded: dict[str, Detector] = {}

    def notice(self, name: str) -> str:
        """What a detector lacks, Markdown; empty if it can run."""
        missing = "" if name in self._loaded else CATALOGUE[name].missing(self._folder)
        return missing and f"**Cannot run yet**: {missing}"

    def run(self, name: str, picture: str | None, resolution: float, **options: Any) -> list[np.ndarray]:
        """The maps of a picture's file.

        Raises:
            FileNotFoundError: If the detector's weights are missing.
            ValueError: If the picture cannot be read, or a value is out of its range.
        """
        entry = CATALOGUE[name]
        resolution = int(resolution_of(entry).checked(resolution))
        image = HWC3(read_upload(picture))
        short, long = sorted(image.shape[:2])
        if resolution**2 * long / short > _MOST_PIXELS:
            raise ValueError(
                f"an image of {image.shape[1]} x {image.shape[0]} pixels is too long and narrow for the resolution "
                f"{resolution}; crop it, or choose a lower resolution"
            )
        if name not in self._loaded:
            self._loaded[name] = entry.build(self._folder, self._device)
        return list(entry.detect(self._loaded[name], resize_image(image, resolution), options).values())


def resolution_of(entry: Entry) -> Option:
    """The setting that every detector has."""
    return Option("resolution", "Resolution", entry.resolution, 256, 1024, 64)


def build(detectors: Detectors) -> gr.Blocks:
    """The page."""
    with new_page(TITLE) as page:
        gr.Markdown(f"# {TITLE}")
        for name, entry in CATALOGUE.items():
            with gr.Tab(entry.title):
                _tab(page, detectors, name, entry)
    return page


def _tab(page: gr.Blocks, detectors: Detectors, name: str, entry: Entry) -> None:
    notice = gr.Markdown(detectors.notice(name))
    page.load(lambda: detectors.notice(name), outputs=notice, api_visibility="private")
    with gr.Row():
        with gr.Column():
            image = gr.Image(label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"])
            settings = {option.name: _component(option) for option in (resolution_of(entry), *entry.options)}
            run = gr.Button("Run", variant="primary")
        with gr.Column():
            gr.Markdown(f"Shows {entry.shows}.")
            maps = [gr.Image(label=f"{entry.title}: {each}", format="png", interactive=False) for each in entry.maps]
    run.click(
        _listener(detectors, name),
        inputs_kwargs={"image": image, **settings},
        outputs=maps,
        api_name=name,
        preprocess=False,  # so that every wrong value gets a message of ours
        concurrency_id="detectors",
        concurrency_limit=1,
    )


def _component(option: Option) -> Any:
    if option.is_switch:
        return gr.Checkbox(bool(option.value), label=option.label)
    return gr.Slider(option.minimum, option.maximum, option.value, step=option.step, label=option.label)


def _listener(detectors: Detectors, name: str) -> Callable[..., Any]:
    """The function behind a tab's Run button."""

    def run(**values: Any) -> Any:
        """Make the maps of an image."""
        image = values.pop("image", None)
        try:
            with lack_of_memory_told("choose a lower resolution"):
                maps = detectors.run(name, uploaded(image), **values)
        except (ValueError, OSError, MemoryError) as error:
            raise message(str(error)) from error
        return maps[0] if len(maps) == 1 else maps

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the page and serve it until it is interrupted."""
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("--checkpoints", type=Path, metavar="FOLDER", help="of weights; by default annotator/ckpts")
    add_serving_flags(parser)
    flags = parser.parse_args(arguments)
    serve(build(Detectors(flags.checkpoints, flags.device)), flags)


if __name__ == "__main__":
    main()
