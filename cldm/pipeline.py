"""Control map and prompt in, images out: what scripts, apps and users' own programs call.

model = load(find_model("canny"))
result = generate(model, edges, "a bird", Settings(seed=1))
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cldm.arrays import SIZE_STEP, as_hint, as_image, as_pixels, check_image, check_mask, kept_latents, repainted
from cldm.cldm import ControlLDM
from cldm.conditions import AppliedControl
from cldm.controls import Control, as_controls
from cldm.loading import LoadedModel, choose_precision, load
from cldm.model_files import ModelFiles, find_model
from cldm.prompts import encode_prompts, prompt_notices
from cldm.settings import Settings
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.dpm_solver import DPMSolverSampler
from ldm.models.diffusion.sampler import Sampler
from ldm.models.diffusion.uni_pc import UniPCSampler

__all__ = [
    "Control",
    "LoadedModel",
    "ModelFiles",
    "Progress",
    "Result",
    "Settings",
    "choose_precision",
    "find_model",
    "generate",
    "load",
]

SAMPLERS: dict[str, type[Sampler]] = {"ddim": DDIMSampler, "dpm++": DPMSolverSampler, "unipc": UniPCSampler}

Progress = Callable[[int, int, Tensor], None]
"""Called after each step with steps done, all steps of all batches, and the clean latents (b, c, h, w) of the images
that are being drawn, as predicted so far.

What it raises ends the generation."""


class Result(NamedTuple):
    """What a generation gave.

    Attributes:
        images: uint8 RGB, (h, w, 3) each, as large as the control map.
        seeds: With which each of them can be made again alone.
        notices: What the user should know, such as that a prompt was cut or a control acted in no step; sentences.
    """

    images: list[np.ndarray]
    seeds: list[int]
    notices: tuple[str, ...] = ()


@torch.no_grad()
def generate(
    model: LoadedModel | ControlLDM,
    control_map: np.ndarray | Control | Sequence[Control] | None,
    prompt: str,
    settings: Settings | None = None,
    progress: Progress | None = None,
    *,
    decoded: Callable[[int], object] | None = None,
    image: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
) -> Result:
    """Make images that follow control maps and a prompt.

    Image k depends on its own seed alone, whatever the device, the number of images or calls before; images that are
    drawn at once (`Settings.batch_size`) differ from images drawn alone within rounding.

    Args:
        model: From `load`, or a ControlLDM. Not changed.
        control_map: uint8 RGB, (h, w, 3), sides multiples of 64; the images will be as large. Or one or several
            `Control`, with maps of one size; or None for no control.
        prompt: May be empty.
        settings: See `Settings`; its defaults if not given.
        progress: See `Progress`.
        decoded: Called as images are decoded, after the last step, with how many are; what it raises ends the
            generation.
        image: Image to start from, uint8 RGB, as large as the maps; how much of it is left, `Settings.denoise` says.
        mask: Repaint only here, uint8, (h, w), above 127 is inside. Everything else of `image` stays as it is, to
            the bit.
        size: Height and width where there is neither map nor image; by default what the model was trained on.

    Raises:
        ValueError: If an array is not as above or of another size than the others, there is no such ControlNet, or
            settings and arguments do not go together.
        FloatingPointError: If the model gave values that are no numbers.
    """
    settings = Settings() if settings is None else settings
    loaded, controls = LoadedModel.of(model), as_controls(control_map)
    ldm, device = loaded.ldm, loaded.device
    height, width = _size(loaded, controls, image, mask, size)
    skip = _steps_skipped(settings, image, mask)
    sampler = SAMPLERS[settings.sampler](ldm)
    timesteps = sampler.timesteps(settings.steps)[skip:-1]
    seeds = settings.seeds()
    notices = (*prompt_notices(ldm, prompt, settings), *_step_notices(settings, controls, len(timesteps)))

    with loaded.using(ldm.cond_stage_model):
        with_prompt, without = encode_prompts(ldm, prompt, settings)
    z = None if image is None else _encoded(loaded, image)
    if skip == settings.steps:
        latents = z.expand(settings.images, -1, -1, -1)
    else:
        with loaded.using(ldm.model, *loaded.controls):
            hints = _applied_controls(loaded, controls, settings, timesteps)
            uncond_hints = hints if settings.control_in_both_passes else []
            downsampling = ldm.first_stage_model.downsampling
            kept = None if mask is None else kept_latents(mask, downsampling).to(device)
            batches, drawn = settings.batches(), []
            for number, batch in enumerate(batches):
                done, steps = number * len(timesteps), len(batches) * len(timesteps)
                latents, _ = sampler.sample(
                    settings.steps,
                    len(batch),
                    (ldm.channels, height // downsampling, width // downsampling),
                    {"c_crossattn": [_repeated(with_prompt, len(batch))], "controls": hints},
                    eta=settings.eta,
                    mask=kept,
                    x0=z if skip or mask is not None else None,
                    skip=skip,
                    unconditional_guidance_scale=settings.scale,
                    unconditional_conditioning={
                        "c_crossattn": [_repeated(without, len(batch))],
                        "controls": uncond_hints,
                    },
                    generators=[torch.Generator("cpu").manual_seed(seeds[k]) for k in batch],
                    img_callback=progress and partial(_told, progress, done, steps),
                    verbose=False,
                )
                drawn.append(latents)
            latents = torch.cat(drawn)
    images = _decoded(loaded, latents, decoded)
    if image is not None and mask is not None:
        images = [repainted(image, painted, mask, settings.mask_border) for painted in images]
    return Result(images, seeds, notices)


def _size(
    loaded: LoadedModel,
    controls: Sequence[Control],
    image: np.ndarray | None,
    mask: np.ndarray | None,
    size: tuple[int, int] | None,
) -> tuple[int, int]:
    """Height and width of the images, after checking that everything is of that size."""
    names = ["control_map"] if len(controls) == 1 else [f"control_map {i}" for i in range(len(controls))]
    arrays = dict(zip(names, (control.map for control in controls), strict=True))
    if image is not None:
        arrays["image"] = image
    sizes = {name: check_image(name, array) for name, array in arrays.items()}
    if size is not None:
        sizes["size"] = tuple(size)
        if len(size) != 2 or any(not isinstance(side, int) or side < 1 or side % SIZE_STEP for side in size):
            raise ValueError(f"size must be height and width, multiples of {SIZE_STEP}, got {size}")
    if len(set(sizes.values())) > 1:
        raise ValueError(f"expected all to be of one size, got {', '.join(f'{n} {s}' for n, s in sizes.items())}")
    side = loaded.ldm.image_size * loaded.ldm.first_stage_model.downsampling
    height, width = next(iter(sizes.values()), (side, side))
    if mask is not None:
        if image is None:
            raise ValueError("expected an image together with the mask, of which to keep what is outside; got none")
        check_mask(mask, (height, width))
    return height, width


def _steps_skipped(settings: Settings, image: np.ndarray | None, mask: np.ndarray | None) -> int:
    """First steps that are left out, because the image to start from stands for them."""
    if image is None:
        if settings.denoise != 1:
            raise ValueError(f"denoise must be 1 without an image to start from, got {settings.denoise}")
        return 0
    if settings.denoise == 1 and mask is None:
        raise ValueError("denoise must be below 1 with an image and no mask: at 1 nothing of the image would be left")
    return settings.steps - int(settings.steps * settings.denoise)


def _step_notices(settings: Settings, controls: Sequence[Control], steps: int) -> list[str]:
    """A sentence about each share of the steps that was asked for and is not one whole step."""
    if not steps and settings.denoise:
        return [
            f"Nothing of the image was changed: denoise = {settings.denoise:g} of {settings.steps} steps is not one "
            "whole step. Take more steps, or more of them."
        ]
    return [
        f"{'The control' if len(controls) == 1 else f'Control {place}, counted from 0,'} had no effect: from "
        f"{control.start:g} to {control.end:g} of {steps} steps there is not one whole step. Take more steps, or more "
        "of them."
        for place, control in enumerate(controls)
        if steps and not any(control.acts_at(step, steps) for step in range(steps))
    ]


def _told(progress: Progress, done: int, steps: int, z: Tensor, i: int) -> None:
    """Report a step of a batch, before which others' were done."""
    progress(done + i + 1, steps, z)


def _applied_controls(
    loaded: LoadedModel, controls: Sequence[Control], settings: Settings, timesteps: Sequence[int]
) -> list[AppliedControl]:
    """The controls as the networks take them, each map for all images and steps; those that act in some step."""
    applied = []
    for place, control in enumerate(controls):
        number = place if control.model is None else control.model
        if number >= len(loaded.controls):
            raise ValueError(
                f"there is no ControlNet {number} for control {place}: {len(loaded.controls)} are loaded, counted "
                "from 0; load more with load(..., controls=[...]), or say which with Control(model=...)"
            )
        acting = [t for step, t in enumerate(timesteps) if control.acts_at(step, len(timesteps))]
        if settings.strength * control.weight == 0 or not acting:
            continue
        network = loaded.controls[number]
        hint = as_hint(control.map).to(loaded.device)
        scales = [control.weight * scale for scale in settings.control_scales(network.reductions)]
        window = None if len(acting) == len(timesteps) else (acting[-1], acting[0])
        applied.append(AppliedControl(network, hint, scales, window))
    return applied


def _repeated(tensor: Tensor, count: int) -> Tensor:
    return tensor.expand(count, *tensor.shape[1:])


def _encoded(loaded: LoadedModel, image: np.ndarray) -> Tensor:
    """The image's likeliest latent, scaled, (1, c, h, w)."""
    autoencoder = loaded.ldm.first_stage_model
    with loaded.using(autoencoder):
        posterior = autoencoder.encode(as_pixels(image).to(loaded.device), loaded.rest)
    return loaded.ldm.scale_factor * posterior.mode().float()


def _decoded(loaded: LoadedModel, latents: Tensor, tell: Callable[[int], object] | None) -> list[np.ndarray]:
    """Images of scaled latents (b, c, h, w), decoded one by one."""
    ldm, images = loaded.ldm, []
    with loaded.using(ldm.first_stage_model):
        for z in latents[:, None]:
            pixels = ldm.first_stage_model.decode(z / ldm.scale_factor, loaded.rest)
            if not pixels.isfinite().all():
                precision = str(ldm.model.diffusion_model.dtype).removeprefix("torch.")
                advice = "the weights may be damaged" if precision == "float32" else "use precision float32 or bfloat16"
                raise FloatingPointError(
                    "expected an image, but the model gave values that are no numbers, "
                    f"in {precision} on {z.device}: {advice}"
                )
            images.append(as_image(pixels[0]))
            if tell is not None:
                tell(len(images))
    return images
