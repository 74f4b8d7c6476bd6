"""Control map and prompt in, images out: what scripts, apps and users' own programs call.

model = load(find_model("canny"))
result = generate(model, edges, "a bird", Settings(seed=1))
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from cldm.cldm import ControlLDM
from cldm.controls import Control, as_controls
from cldm.loading import LoadedModel, choose_precision, load
from cldm.model_files import ModelFiles, find_model
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

SIZE_STEP = 64  # an image's sides are multiples of it: the autoencoder takes 8, the U-Net 8 more
SAMPLERS: dict[str, type[Sampler]] = {"ddim": DDIMSampler, "dpm++": DPMSolverSampler, "unipc": UniPCSampler}

Progress = Callable[[int, int, Tensor], None]
"""Called after each step with steps done, all steps, and the clean latents (b, c, h, w) as predicted so far.

What it raises ends the generation."""


class Result(NamedTuple):
    """What a generation gave.

    Attributes:
        images: uint8 RGB, (h, w, 3) each, as large as the control map.
        seeds: With which each of them can be made again alone.
        notices: What the user should know, such as that a prompt was cut; sentences.
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
    image: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
) -> Result:
    """Make images that follow control maps and a prompt.

    Image k depends on its own seed alone, whatever the device, the number of images or calls before.

    Args:
        model: From `load`, or a ControlLDM. Not changed.
        control_map: uint8 RGB, (h, w, 3), sides multiples of 64; the images will be as large. Or one or several
            `Control`, with maps of one size; or None for no control.
        prompt: May be empty.
        settings: See `Settings`; its defaults if not given.
        progress: See `Progress`.
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
    hint = _hint(control_map).to(model.alphas_cumprod.device)
    cond, uncond = _conditions(model, hint, prompt, settings)
    seeds = settings.seeds()
    downsampling = model.first_stage_model.downsampling
    shape = (model.channels, *(side // downsampling for side in hint.shape[-2:]))
    latents, _ = SAMPLERS[settings.sampler](model).sample(
        settings.steps,
        settings.images,
        shape,
        cond,
        eta=settings.eta,
        unconditional_guidance_scale=settings.scale,
        unconditional_conditioning=uncond,
        generators=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        img_callback=None if progress is None else lambda z, i: progress(i + 1, settings.steps, z),
        verbose=False,
    )
    return Result([_decoded(model, z[None]) for z in latents], seeds)


def _hint(control_map: np.ndarray) -> Tensor:
    """(1, 3, h, w) in [0, 1]."""
    if not isinstance(control_map, np.ndarray) or control_map.dtype != np.uint8:
        given = control_map.dtype if isinstance(control_map, np.ndarray) else type(control_map).__name__
        raise ValueError(f"control_map must be a uint8 array (h, w, 3), got {given}")
    height, width, channels = control_map.shape if control_map.ndim == 3 else (0, 0, 0)
    if channels != 3 or not height or not width or height % SIZE_STEP or width % SIZE_STEP:
        raise ValueError(
            f"control_map must be (h, w, 3) with sides that are multiples of {SIZE_STEP}, got {control_map.shape}; "
            "annotator.util.HWC3 and resize_image make such arrays"
        )
    return rearrange(torch.tensor(control_map), "h w c -> 1 c h w").float() / 255


def _conditions(
    model: ControlLDM, hint: Tensor, prompt: str, settings: Settings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the sampler gives the model with and without the prompt, for all images; the hint is encoded once."""
    context, negative = model.get_learned_conditioning([settings.full_prompt(prompt), settings.negative_prompt])
    with_prompt = {"c_crossattn": [_repeated(context[None], settings.images)]}
    without = {"c_crossattn": [_repeated(negative[None], settings.images)]}
    if settings.strength == 0:
        return with_prompt, without
    encoded = model.prepare_condition({"c_concat": [hint]})
    control = {name: [_repeated(tensor, settings.images) for tensor in encoded[name]] for name in encoded}
    control["control_scales"] = settings.control_scales(model.control_model.num_connections)
    return {**with_prompt, **control}, without if settings.guess_mode else {**without, **control}


def _repeated(tensor: Tensor, count: int) -> Tensor:
    return tensor.expand(count, *tensor.shape[1:])


def _decoded(model: ControlLDM, z: Tensor) -> np.ndarray:
    """One image, uint8 RGB (h, w, 3), of its latent (1, c, h, w)."""
    pixels = model.decode_first_stage(z).float()
    if not pixels.isfinite().all():
        precision = str(model.model.diffusion_model.dtype).removeprefix("torch.")
        advice = "the weights may be damaged" if precision == "float32" else "use precision float32 or bfloat16"
        raise FloatingPointError(
            f"expected an image, but the model gave values that are no numbers, in {precision} on {z.device}: {advice}"
        )
    levels = ((pixels[0] + 1) * 127.5).round().clamp(0, 255)
    return rearrange(levels, "c h w -> h w c").to(torch.uint8).cpu().numpy()
