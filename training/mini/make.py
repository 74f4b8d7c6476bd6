"""Make the miniature Stable Diffusion and its ControlNet from nothing but a seed: python -m training.mini.make.

Hours on two cores. Interrupt it when you like: called again, it goes on where it was.
"""

import argparse
from pathlib import Path

from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn

from cldm.model import create_model
from cldm.weights.reading import read_weights
from ldm.util import instantiate_from_config
from training.mini import autoencoder, control, latents, text, unet

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "models/cldm_mini.yaml"


def half(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors by their names in a checkpoint, in half precision."""
    tensors = network.state_dict().items()
    return {prefix + name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in tensors}


def save(tensors: dict[str, Tensor], file: Path) -> None:
    """Write a checkpoint in one move."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file.with_suffix(".tmp"))
    file.with_suffix(".tmp").replace(file)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB", flush=True)


def kept_parts(base: Path) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Text model, autoencoder and U-Net of a base that is there."""
    weights = read_weights(base)
    model = create_model(CONFIG)
    parts = (model.cond_stage_model, model.first_stage_model, model.model.diffusion_model)
    for prefix, part in zip(("cond_stage_model.", "first_stage_model.", "model.diffusion_model."), parts, strict=True):
        part.load_state_dict({n.removeprefix(prefix): t.float() for n, t in weights.items() if n.startswith(prefix)})
    return parts


def make(work: Path, output: Path, keep: Path | None = None) -> None:
    """Train every part and write both checkpoints into `output`; with `keep`, only what such a base has to learn more.

    Args:
        work: Folder of unfinished parts and logs.
        output: Folder for the checkpoints.
        keep: A base whose text model and autoencoder are kept, and whose U-Net is trained by the second plan alone.
    """
    if keep is None:
        text_model, first_stage, first = text.main(CONFIG, work), autoencoder.main(CONFIG, work), None
    else:
        text_model, first_stage, first = kept_parts(keep)
    encoded = latents.encode(first_stage, work)
    expected = OmegaConf.load(CONFIG).model.params.scale_factor
    if abs(expected / encoded.scale_factor - 1) > 0.01:
        raise ValueError(f"write scale_factor: {encoded.scale_factor} into {CONFIG}, which has {expected}")
    base = unet.main(CONFIG, work, text_model, encoded, first)
    model = instantiate_from_config(OmegaConf.to_container(OmegaConf.load(CONFIG).model))
    parts = {
        "model.diffusion_model.": base,
        "first_stage_model.": first_stage,
        "cond_stage_model.": text_model,
    }
    tensors = {name: tensor for prefix, part in parts.items() for name, tensor in half(prefix, part).items()}
    schedule = {name: tensor for name, tensor in model.state_dict().items() if "." not in name}
    save(tensors | schedule, output / "sd_mini.safetensors")
    controlled = control.main(CONFIG, work, base, text_model, encoded)
    save(half("control_model.", controlled), output / "control_mini.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "training/mini/work", help="unfinished parts and logs")
    parser.add_argument("--output", type=Path, default=ROOT / "training/mini/work", help="folder for the checkpoints")
    parser.add_argument("--keep", type=Path, metavar="BASE", help="go on from this base: train its U-Net longer")
    given = parser.parse_args()
    make(given.work, given.output, given.keep)


if __name__ == "__main__":
    main()
