"""The page of an app, built from its `Demo`, and the flags it is started with; what all pages have is public."""

import argparse
import html
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cldm.runner import RESOLUTION_STEP, Demo, Machine, Runner, Slider, invert, unchanged
from cldm.settings import LIMITS, SAMPLERS

__all__ = [
    "Demo",
    "Slider",
    "add_serving_flags",
    "build",
    "invert",
    "main",
    "message",
    "new_page",
    "serve",
    "unchanged",
]

_UPLOAD_LIMIT = "64mb"
_SAMPLER_NAMES = {"ddim": "DDIM", "dpm++": "DPM-Solver++ (2M)", "unipc": "UniPC"}
_CACHE_CHECK, _CACHE_AGE = 3600, 86400  # seconds: uploads and results are kept for a day


def main(demo: Demo, arguments: Sequence[str] | None = None) -> None:
    """Start an app and serve it until it is interrupted.

    Args:
        demo: The app.
        arguments: Of the command line, by default those of this process.
    """
    flags = _parser(demo).parse_args(arguments)
    runner = Runner(demo, Machine(tuple(flags.checkpoint), flags.config, flags.device, flags.precision))
    if runner.notice():
        print(runner.notice().replace("**", "").replace("`", ""), file=sys.stderr)
    serve(build(runner), flags)


def serve(page: Any, flags: argparse.Namespace) -> None:
    """Serve a page until it is interrupted.

    Args:
        page: A `gradio.Blocks`.
        flags: Those of `add_serving_flags`.
    """
    try:
        page.launch(
            server_name=flags.host,
            server_port=flags.port,
            share=flags.share,
            auth=flags.auth,
            show_error=True,
            max_file_size=_UPLOAD_LIMIT,
            ssr_mode=False,
            run_history=False,
            footer_links=["api", "gradio"],
        )
    except OSError as error:
        raise SystemExit(f"cannot serve on {flags.host}: {error}") from error


def new_page(title: str) -> Any:
    """An empty page, a `gradio.Blocks`, that deletes its visitors' files after a day."""
    import gradio as gr

    return gr.Blocks(title=title, analytics_enabled=False, delete_cache=(_CACHE_CHECK, _CACHE_AGE))


def build(runner: Runner) -> Any:
    """The page of an app, a `gradio.Blocks`."""
    import gradio as gr  # takes seconds, so not before it is needed

    demo = runner.demo
    settings, resolution, resolutions = runner.defaults()

    def slider(label: str, name: str, step: float) -> Any:
        limit = LIMITS[name]
        return gr.Slider(limit.lowest, limit.highest, value=getattr(settings, name), step=step, label=label)

    with new_page(demo.title) as page:
        gr.Markdown(f"# {demo.title}")
        notice = gr.Markdown(runner.notice())
        page.load(runner.notice, outputs=notice, api_visibility="private")
        with gr.Row():
            with gr.Column():
                inputs: dict[str, Any] = {
                    "image": gr.Image(label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"]),
                    "prompt": gr.Textbox("", label="Prompt"),
                }
                run = gr.Button("Run", variant="primary")
                with gr.Accordion("Advanced options", open=False):
                    inputs["images"] = slider("Images", "images", 1)
                    inputs["resolution"] = gr.Slider(
                        resolutions.lowest, resolutions.highest, resolution, step=RESOLUTION_STEP, label="Resolution"
                    )
                    inputs["strength"] = slider("Control strength", "strength", 0.01)
                    inputs["guess_mode"] = gr.Checkbox(settings.guess_mode, label="Guess mode")
                    for option in demo.options:
                        inputs[option.name] = gr.Slider(
                            option.minimum, option.maximum, option.value, step=option.step, label=option.label
                        )
                    inputs["sampler"] = gr.Dropdown(
                        [(_SAMPLER_NAMES[name], name) for name in SAMPLERS], value=settings.sampler, label="Sampler"
                    )
                    inputs["steps"] = slider("Steps", "steps", 1)
                    inputs["scale"] = slider("Guidance scale", "scale", 0.1)
                    inputs["seed"] = gr.Number(
                        settings.seed,
                        label="Seed",
                        info="-1 picks one and says which; image k has the seed + k",
                        precision=0,
                        minimum=LIMITS["seed"].lowest,
                        maximum=LIMITS["seed"].highest,
                    )
                    inputs["eta"] = slider("Eta (DDIM)", "eta", 0.01)
                    inputs["added_prompt"] = gr.Textbox(settings.added_prompt, label="Added prompt")
                    inputs["negative_prompt"] = gr.Textbox(settings.negative_prompt, label="Negative prompt")
            with gr.Column():
                gallery = gr.Gallery(label="Control map and images", format="png", interactive=False, columns=2)
                seeds = gr.Textbox(label="Seeds used", interactive=False, buttons=["copy"])
        run.click(
            _listener(runner),
            inputs_kwargs=inputs,
            outputs=[gallery, seeds],
            api_name="run",
            preprocess=False,  # so that every wrong value gets a message of ours
            show_progress_on=gallery,
            concurrency_limit=1,
        )
    return page


def _listener(runner: Runner) -> Any:
    """The function behind the Run button."""
    import gradio as gr
    import torch

    tracker = gr.Progress()

    def run(progress: gr.Progress = tracker, **values: Any) -> tuple[list[tuple[Path, str]], str]:
        """Make a control map of an image and images of the map."""
        image = values.get("image") or {}
        try:
            pictures = runner.run(
                {**values, "image": image.get("path")}, lambda share, what: progress(share, desc=what)
            )
        except torch.OutOfMemoryError as error:
            raise message("out of memory: ask for fewer images or a lower resolution") from error
        except (ValueError, OSError, FloatingPointError) as error:
            raise message(str(error)) from error
        captions = [f"seed {seed}" for seed in pictures.seeds]
        shown = [(pictures.preview, "control map"), *zip(pictures.images, captions, strict=True)]
        return shown, ", ".join(map(str, pictures.seeds))

    return run


def message(text: str) -> Exception:
    """An error that the page shows until it is closed, and that the terminal says in one line."""
    import gradio as gr

    print(f"Error: {text}", file=sys.stderr)
    return gr.Error(html.escape(text, quote=False), duration=None, print_exception=False)


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
    parser.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="of the networks; auto, the default, is float16 on CUDA and float32 elsewhere",
    )
    add_serving_flags(parser)
    return parser


def add_serving_flags(parser: argparse.ArgumentParser) -> None:
    """Add what every app is started with: the device, and who may reach the page."""
    parser.add_argument("--device", default="auto", help="auto (the default), cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve on, by default this machine alone; 0.0.0.0 is every network",
    )
    parser.add_argument("--port", type=int, help="by default the first free one from 7860")
    parser.add_argument("--share", action="store_true", help="also serve under a public address of gradio.live")
    parser.add_argument("--auth", type=_name_and_password, metavar="NAME:PASSWORD", help="ask visitors for these")


def _name_and_password(text: str) -> tuple[str, str]:
    name, _, password = text.partition(":")
    if not name or not password:
        raise argparse.ArgumentTypeError(f"expected NAME:PASSWORD, got {text!r}")
    return name, password
