"""The page of an app, built from its `Demo`."""

from typing import Any

from cldm.apps import DETECT_RESOLUTIONS, Drawing
from cldm.demo.listeners import Listeners
from cldm.demo.serving import new_page
from cldm.maps import RESOLUTION_STEP
from cldm.runner import Runner
from cldm.settings import PAGE_LIMITS, SAMPLERS, Limit
from cldm.starts import DENOISE

_SAMPLER_NAMES = {"ddim": "DDIM", "dpm++": "DPM-Solver++ (2M)", "unipc": "UniPC"}
_CANVAS, _CANVAS_SIDE = Limit(256, 1024, True), 512
_MINIATURE_CANVAS, _MINIATURE_CANVAS_SIDE = Limit(128, 512, True), 256
_CANVAS_STEP = 64
_BRUSH = ["#000000", "#ff0000"]  # none that nobody sees on white paper
_OF_DENOISE = "0 leaves the image as it is, 1 nothing of it, which tool_generate.py takes for what is painted"
_TICKED_BY_HAND = "ticked => { window.tickedByHand = ticked }"
_IF_TICKED_BY_HAND = "ticked => ticked && Boolean(window.tickedByHand)"
_READ_OUT = "element.setAttribute('aria-live', 'polite')"


def build(runner: Runner) -> Any:
    """The page of an app, a `gradio.Blocks`."""
    import gradio as gr  # takes seconds, so not before it is needed

    demo = runner.demo
    with new_page(demo.title) as page:
        gr.Markdown(f"# {demo.title}")
        notice = gr.Markdown(runner.notice())
        page.load(runner.notice, outputs=notice, api_visibility="private")
        with gr.Row():
            with gr.Column():
                inputs = _picture(runner)
                with gr.Row():
                    preview = gr.Button("Preview map")
                    run = gr.Button("Run", variant="primary")
                    cancel = gr.Button("Cancel", variant="stop")
                with gr.Accordion("Advanced options", open=False):
                    inputs |= _advanced(runner)
                with gr.Accordion("Start from an image", open=False):
                    inputs |= _start()
                with gr.Accordion("Restore settings from an image", open=False):
                    gr.Markdown("An image that was saved here, as a PNG, knows how it was made.")
                    saved = gr.Image(label="Saved image", type="filepath", image_mode=None, sources=["upload"])
                _examples(runner, inputs)
            with gr.Column():
                gallery = gr.Gallery(label="Control map and images", format="png", interactive=False, columns=2)
                seeds = gr.Textbox(label="Seeds used", interactive=False, buttons=["copy"])
                status = gr.HTML(label="Progress", js_on_load=_READ_OUT)
        listeners = Listeners(runner, inputs)
        running = run.click(
            listeners.run,
            inputs_kwargs=inputs,
            outputs=[gallery, seeds, status],
            api_name="run",
            preprocess=False,  # so that every wrong value gets a message of ours
            show_progress="minimal",
            show_progress_on=gallery,
            concurrency_limit=1,
        )
        preview.click(
            listeners.preview,
            inputs_kwargs=inputs,
            outputs=[gallery, seeds, status],
            api_name="preview_map",
            preprocess=False,
            show_progress="minimal",
            show_progress_on=gallery,
            concurrency_limit=1,
        )
        stopped = cancel.click(None, cancels=[running], queue=False, api_visibility="private")
        # only then, or a last update of the run would take the place of what is said
        stopped.then(listeners.cancelled, outputs=status, queue=False, api_visibility="private")
        saved.upload(
            listeners.restore,
            inputs_kwargs={"saved": saved},
            outputs=[*inputs.values(), status],
            api_name="restore",
            preprocess=False,
        )
    return page


def _picture(runner: Runner) -> dict[str, Any]:
    """Where people give or draw a picture, and the prompt."""
    import gradio as gr

    demo = runner.demo
    new = None
    if demo.canvas:
        image, new, size = _canvas(runner)
    else:
        image = gr.Image(label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"])
    is_map = gr.Checkbox(
        False,
        label="The input is already a control map",
        info=f"{demo.looks}; " + ("strokes are added to it in white" if demo.canvas else "no detector is needed"),
    )
    # a tick that an example or restored settings have brought is not for what comes next
    if new is None:
        is_map.input(None, is_map, js=_TICKED_BY_HAND, api_visibility="private")
        image.upload(None, is_map, is_map, js=_IF_TICKED_BY_HAND, api_visibility="private")
    else:  # a canvas says of an example too that it was uploaded
        new.click(
            lambda width, height: (Drawing.blank(int(width), int(height)), False),
            inputs=size,
            outputs=[image, is_map],
            queue=False,
            show_progress="hidden",  # its cover would swallow the first stroke
            api_visibility="private",
        )
    return {"image": image, "is_map": is_map, "prompt": gr.Textbox("", label="Prompt")}


def _canvas(runner: Runner) -> tuple[Any, Any, list[Any]]:
    """A canvas to draw on, the button for a new one, and the sliders of its width and height."""
    import gradio as gr

    from cldm.demo.editors import image_editor

    _, _, resolutions = runner.defaults()
    small = resolutions.lowest < _CANVAS.lowest
    limits, side = (_MINIATURE_CANVAS, _MINIATURE_CANVAS_SIDE) if small else (_CANVAS, _CANVAS_SIDE)
    with gr.Row():
        size = [
            gr.Slider(limits.lowest, limits.highest, side, step=_CANVAS_STEP, label=f"Canvas {name}")
            for name in ("width", "height")
        ]
        new = gr.Button("New canvas")
    image = image_editor(
        Drawing.blank(side, side),
        label="Drawing",
        brush=gr.Brush(default_size=max(2, side // 64), colors=_BRUSH, default_color=_BRUSH[0], color_mode="fixed"),
        format="png",
        canvas_size=(side, side),
    )
    return image, new, size


def _advanced(runner: Runner) -> dict[str, Any]:
    import gradio as gr

    demo = runner.demo
    settings, resolution, resolutions = runner.defaults()

    def slider(label: str, name: str, step: float, info: str | None = None) -> Any:
        return _slider(label, name, getattr(settings, name), step, info)

    inputs = {
        "images": slider("Images", "images", 1),
        "resolution": gr.Slider(
            resolutions.lowest, resolutions.highest, resolution, step=RESOLUTION_STEP, label="Resolution"
        ),
        "strength": slider("Control strength", "strength", 0.01),
        "guess_mode": gr.Checkbox(settings.guess_mode, label="Guess mode"),
    }
    if demo.detect_at is not None:
        lowest, highest, _ = DETECT_RESOLUTIONS
        inputs["detect_resolution"] = gr.Slider(lowest, highest, demo.detect_at, step=1, label="Detection resolution")
    for option in demo.options:
        inputs[option.name] = gr.Slider(
            option.minimum, option.maximum, option.value, step=option.step, label=option.label
        )
    choices = [(_SAMPLER_NAMES[name], name) for name in SAMPLERS]
    return {
        **inputs,
        "sampler": gr.Dropdown(choices, value=settings.sampler, label="Sampler"),
        "steps": slider("Steps", "steps", 1),
        "scale": slider("Guidance scale", "scale", 0.1),
        "seed": gr.Number(
            settings.seed,
            label="Seed",
            info="-1 picks one and says which; image k has the seed + k",
            precision=0,
            minimum=PAGE_LIMITS["seed"].lowest,
            maximum=PAGE_LIMITS["seed"].highest,
        ),
        "eta": slider("Eta (DDIM)", "eta", 0.01),
        "added_prompt": gr.Textbox(settings.added_prompt, label="Added prompt"),
        "negative_prompt": gr.Textbox(settings.negative_prompt, label="Negative prompt"),
        "cfg_resolution_weighting": gr.Checkbox(
            settings.cfg_resolution_weighting,
            label="Resolution weighting",
            info="the unconditional pass sees no map, and coarse connections weigh more; not with guess mode",
        ),
        "clip_skip": slider("CLIP skip", "clip_skip", 1, "text encoder's layer, from the end; 0 is the model's own"),
        "long_prompts": gr.Checkbox(
            settings.long_prompts, label="Long prompts", info="read more than 75 tokens, in chunks of 75"
        ),
    }


def _start() -> dict[str, Any]:
    """Image-to-image, and with strokes on the image inpainting."""
    import gradio as gr

    from cldm.demo.editors import image_editor

    gr.Markdown("Instead of noise. Paint on it, and it changes there alone.")
    return {
        "init_image": image_editor(
            label="Image to start from",
            brush=gr.Brush(colors=["#ffffff"], color_mode="fixed"),
            transforms=(),
            format="png",
        ),
        "denoise": _slider("Denoising", "denoise", DENOISE, 0.01, _OF_DENOISE),
        "mask_border": _slider("Fading border of what is painted, pixels", "mask_border", 0, 1),
    }


def _slider(label: str, name: str, value: float, step: float, info: str | None = None) -> Any:
    """A slider between a setting's limits."""
    import gradio as gr

    limit = PAGE_LIMITS[name]
    return gr.Slider(limit.lowest, limit.highest, value=value, step=step, label=label, info=info)


def _examples(runner: Runner, inputs: dict[str, Any]) -> None:
    import gradio as gr

    demo = runner.demo
    examples = demo.examples()
    if examples:
        gr.Examples(
            [
                [
                    {"background": str(file), "layers": [], "composite": None} if demo.canvas else str(file),
                    prompt,
                    is_map,
                ]
                for file, prompt, is_map in examples
            ],
            [inputs["image"], inputs["prompt"], inputs["is_map"]],
            label="Examples",
            cache_examples=False,
            api_visibility="private",
        )
