"""Measure the shipped miniature on held-out combinations of shape and colours: python -m training.mini.evaluate."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from cldm.cldm import ControlLDM
from cldm.fidelity import colour_errors, drawn_shape, iou
from cldm.model_files import MINIATURE_SCALE
from cldm.shapes import COLOURS, Scene, sample_scene
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.sampler import Sampler
from training.mini.autoencoder import SIZE, psnr
from training.mini.control import hints
from training.mini.maps import MAPS, shows

STEPS = 20
SCALE = MINIATURE_SCALE
_BATCH = 20
_SEED = 3
_SHOWN = 5  # samples in the picture


@dataclass(frozen=True)
class Figures:
    """What is measured; see `Targets` of the README beside this file.

    Attributes:
        psnr: Of the autoencoder, dB.
        colour_error: Of the base's shapes, out of 255.
        background_error: Of the base's backgrounds, out of 255.
        iou: Of the generated shapes with the scenes', for each kind of control map.
        iou_without: The same at strength 0, with edges.
    """

    psnr: float
    colour_error: float
    background_error: float
    iou: dict[str, float]
    iou_without: float


def held_out_scenes(count: int, seed: int = _SEED, kind: str = "canny") -> list[Scene]:
    """Scenes of combinations that no training had, of which there is such a map."""
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng, from_held_out=True)
        scenes += [scene] if shows(kind, scene) else []
    return scenes


@torch.inference_mode()
def generate(
    model: ControlLDM,
    scenes: list[Scene],
    kind: str | None,
    strength: float = 1.0,
    steps: int = STEPS,
    scale: float = SCALE,
    seed: int = _SEED,
    sampler: type[Sampler] = DDIMSampler,
) -> list[np.ndarray]:
    """An image for each scene's prompt, and for its map of that kind if there is one; uint8 RGB (128, 128, 3)."""
    latents = torch.randn(len(scenes), 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(seed))
    images = []
    for i in range(0, len(scenes), _BATCH):
        few = scenes[i : i + _BATCH]
        control = _control(model, few, kind, strength)
        cond = {"c_crossattn": [model.get_learned_conditioning([scene.prompt for scene in few])], **control}
        uncond = {"c_crossattn": [model.get_unconditional_conditioning(len(few))], **control}
        samples, _ = sampler(model).sample(
            steps,
            len(few),
            tuple(latents.shape[1:]),
            cond,
            unconditional_guidance_scale=scale,
            unconditional_conditioning=uncond,
            x_T=latents[i : i + _BATCH],
            verbose=False,
        )
        pixels = model.decode_first_stage(samples).clamp(-1, 1)
        images += list(((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return images


def _control(
    model: ControlLDM, scenes: list[Scene], kind: str | None, strength: float
) -> dict[str, list[Tensor] | list[float] | None]:
    if kind is None:
        return {"c_concat": None}
    maps = hints([MAPS[kind](scene, None) for scene in scenes])
    return {"c_concat": [maps], "control_scales": [strength] * model.control_model.num_connections}


def mean_iou(images: list[np.ndarray], scenes: list[Scene]) -> float:
    """Of the shapes as generated with the scenes'."""
    return float(
        np.mean(
            [
                iou(drawn_shape(image, COLOURS[scene.colour], COLOURS[scene.background]), scene.mask(SIZE) > 0.5)
                for image, scene in zip(images, scenes, strict=True)
            ]
        )
    )


def mean_colour_errors(images: list[np.ndarray], scenes: list[Scene]) -> tuple[float, float]:
    """Of the shapes and of the backgrounds, out of 255."""
    pairs = zip(images, scenes, strict=True)
    errors = [colour_errors(image, COLOURS[scene.colour], COLOURS[scene.background]) for image, scene in pairs]
    shape, background = np.mean(errors, axis=0)
    return float(shape), float(background)


def measure(model: ControlLDM, count: int = 100) -> tuple[Figures, np.ndarray]:
    """All figures, and a picture of some samples: for each kind the maps and the images, then those without control."""
    scenes = held_out_scenes(count)
    plain, without = generate(model, scenes, None), generate(model, scenes, "canny", strength=0.0)
    overlaps, rows = {}, []
    for kind, draw in MAPS.items():
        shown = held_out_scenes(count, kind=kind)
        images = generate(model, shown, kind)
        overlaps[kind] = mean_iou(images, shown)
        rows += [[draw(scene, None) for scene in shown], images]
    rows += [without, [scene.image(SIZE) for scene in scenes]]
    errors = mean_colour_errors(plain, scenes)
    figures = Figures(psnr(model.first_stage_model), *errors, overlaps, mean_iou(without, scenes))
    return figures, np.concatenate([np.concatenate(row[:_SHOWN], axis=1) for row in rows], axis=0)


def main() -> None:
    from cldm.model import load_model

    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=root / "models/sd_mini.safetensors")
    parser.add_argument("--control", type=Path, default=root / "models/control_mini.safetensors")
    parser.add_argument("--count", type=int, default=100, help="held-out prompts and hints (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="write samples to this PNG file")
    given = parser.parse_args()
    model = load_model(root / "models/cldm_mini.yaml", given.base, given.control, device="cpu")
    figures, picture = measure(model, given.count)
    print(f"{given.count} held-out prompts and hints, {STEPS} DDIM steps, guidance scale {SCALE:g}:")
    print(f"autoencoder PSNR     {figures.psnr:6.2f} dB")
    print(f"error of shapes      {figures.colour_error:6.2f} of 255")
    print(f"error of backgrounds {figures.background_error:6.2f} of 255")
    for kind, overlap in figures.iou.items():
        print(f"IoU, {kind:<15} {overlap:6.3f}")
    print(f"IoU at strength 0    {figures.iou_without:6.3f}")
    if given.picture:
        cv2.imwrite(str(given.picture), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        print(f"samples: {given.picture}")


if __name__ == "__main__":
    main()
