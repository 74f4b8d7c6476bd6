"""The command lines of the root scripts that make checkpoints."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cldm.model import create_model
from cldm.weights.add_control import Added, add_control
from cldm.weights.blueprint import Blueprint
from cldm.weights.expected import describe_version, shapes_of
from cldm.weights.precision import halved
from cldm.weights.reading import read_weights
from cldm.weights.saving import check_output, save_weights
from cldm.weights.transfer_control import transfer_control


def add_control_main(description: str | None, default_config: Path, argv: Sequence[str] | None = None) -> None:
    """`tool_add_control.py`: a Stable Diffusion in, the same with a new ControlNet out."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("input", metavar="IN", type=Path, help="Stable Diffusion: .ckpt, .pth, .pt or .safetensors")
    parser.add_argument("output", metavar="OUT", type=Path, help="file to make; its name says the format")
    parser.add_argument("--config", type=Path, default=default_config, help="default: %(default)s")
    parser.add_argument("--half", action="store_true", help="store the weights in float16")
    parser.add_argument("--ema", action="store_true", help="use the averaged weights, model_ema.*, of the U-Net")
    parser.add_argument("--seed", type=int, default=0, help="of the new hint encoder; default: 0")
    options = parser.parse_args(argv)
    try:
        check_output(options.output)
        blueprint = Blueprint.of(create_model(options.config), str(options.config))
        base = read_weights(options.input, options.ema)
        added = add_control(base, blueprint, options.seed)
        weights = added.weights
        if options.half:
            weights = {name: halved(name, tensor) for name, tensor in weights.items()}
        save_weights(weights, options.output)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    print(f"{options.input}: {describe_version(shapes_of(base))}")
    print(_report(added, options.seed))
    print(_wrote(options.output))


def transfer_control_main(description: str | None, default_config: Path, argv: Sequence[str] | None = None) -> None:
    """`tool_transfer_control.py`: a ControlNet trained on one Stable Diffusion in, the same for another out."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("base", metavar="SD15", type=Path, help="Stable Diffusion that the ControlNet was trained on")
    parser.add_argument("control", metavar="SD15_CONTROL", type=Path, help="this with the ControlNet, or that alone")
    parser.add_argument("new_base", metavar="NEW_BASE", type=Path, help="Stable Diffusion to control")
    parser.add_argument("output", metavar="OUT", type=Path, help="file to make; its name says the format")
    parser.add_argument("--config", type=Path, default=default_config, help="default: %(default)s")
    parser.add_argument("--half", action="store_true", help="store the weights in float16")
    options = parser.parse_args(argv)
    try:
        check_output(options.output)
        blueprint = Blueprint.of(create_model(options.config), str(options.config))
        files = [read_weights(path) for path in (options.base, options.control, options.new_base)]
        made = transfer_control(*files, blueprint, options.half)
        save_weights(made.weights, options.output)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    print(f"copied from {options.new_base}: {made.copied} tensors")
    print(f"moved by {options.new_base} - {options.base}: {made.moved} tensors")
    print(f"kept from {options.control}: {made.kept} tensors")
    print(_wrote(options.output))


def _report(added: Added, seed: int) -> str:
    lines = {
        "copied": added.copied,
        "copied into the ControlNet too": added.control,
        f"new (random with seed {seed}, or zero)": added.new,
        "missing, taken from the config": added.missing,
        "left out, without a place in the model": added.left_out,
    }
    return "\n".join(f"{what}: {_examples(names)}" for what, names in lines.items() if names)


def _examples(names: Sequence[str], limit: int = 3) -> str:
    """How many, and the first of them."""
    return f"{len(names)} ({', '.join(names[:limit])}{', ...' if len(names) > limit else ''})"


def _wrote(path: Path) -> str:
    return f"wrote {path} ({path.stat().st_size / 1e9:.2f} GB)"
