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
BASE, CONTROL = "sd_mini.safetensors", "control_mini.safetensors"


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


def kept_parts(folder: Path) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    """Text model, autoencoder, U-Net and ControlNet of the two checkpoints in a folder, in single precision."""
    weights = read_weights(folder / BASE) | read_weights(folder / CONTROL)
    model = create_model(CONFIG)
    parts = {
        "cond_stage_model.": model.cond_stage_model,
        "first_stage_model.": model.first_stage_model,
        "model.diffusion_model.": model.model.diffusion_model,
        "control_model.": model.control_model,
    }
    for prefix, part in parts.items():
        part.load_state_dict({n.removeprefix(prefix): t.float() for n, t in weights.items() if n.startswith(prefix)})
    return tuple(parts.values())


def make(work: Path, output: Path, keep: Path | None = None) -> None:
    """Train every part and write both checkpoints into `output`; with `keep`, only the ControlNet, by its second plan.

    Args:
        work: Folder of unfinished parts and logs.
        output: Folder for the checkpoints.
        keep: A folder of both checkpoints to go on from; of these, the base stays as it is.
    """
    if keep is None:
        text_model, first_stage = text.main(CONFIG, work), autoencoder.main(CONFIG, work)
    else:
        text_model, first_stage, base, first = kept_parts(keep)
    encoded = latents.encode(first_stage, work)
    if keep is None:
        expected = OmegaConf.load(CONFIG).model.params.scale_factor
        if abs(expected / encoded.scale_factor - 1) > 0.01:
            raise ValueError(f"write scale_factor: {encoded.scale_factor} into {CONFIG}, which has {expected}")
        base, first = unet.main(CONFIG, work, text_model, encoded), None
        save_base(text_model, first_stage, base, output / BASE)
    controlled = control.main(CONFIG, work, base, text_model, encoded, first)
    save(half("control_model.", controlled), output / CONTROL)


def save_base(text_model: nn.Module, first_stage: nn.Module, base: nn.Module, file: Path) -> None:
    """Write the three parts and the schedule as one checkpoint of a Stable Diffusion."""
    model = instantiate_from_config(OmegaConf.to_container(OmegaConf.load(CONFIG).model))
    parts = {"model.diffusion_model.": base, "first_stage_model.": first_stage, "cond_stage_model.": text_model}
    tensors = {name: tensor for prefix, part in parts.items() for name, tensor in half(prefix, part).items()}
    schedule = {name: tensor for name, tensor in model.state_dict().items() if "." not in name}
    save(tensors | schedule, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "training/mini/work", help="unfinished parts and logs")
    parser.add_argument("--output", type=Path, default=ROOT / "training/mini/work", help="folder for the checkpoints")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="train the ControlNet there longer, on its base")
    given = parser.parse_args()
    make(given.work, given.output, given.keep)


if __name__ == "__main__":
    main()
