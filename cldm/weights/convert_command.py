"""The command line of `tool_convert.py`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from cldm.model import create_model, read_config
from cldm.weights.blueprint import Blueprint
from cldm.weights.bundles import as_json, check_file, check_folder, save_diffusers_folder, save_file_with
from cldm.weights.converting import to_control, to_diffusers, to_ldm
from cldm.weights.diffusers_config import diffusers_config
from cldm.weights.expected import describe_version, detect_version, shapes_of
from cldm.weights.layouts import CONTROL
from cldm.weights.pooling import POOLED, pooling_doubt, told_pooled
from cldm.weights.precision import halved
from cldm.weights.reading import read_weights
from ldm.deferred import HandedOver

_CONFIGS = {"sd15": "cldm_v15.yaml", "sd21": "cldm_v21.yaml"}
_BESIDE = {"ldm": (".yaml",), "control": (".yaml", ".json")}
_SHAPES = """ldm: full checkpoint, OUT is a file, with OUT's yaml beside it; control: control_model.* alone, OUT is a
file, with its yaml and, for diffusers' from_single_file(OUT, config=), its json beside it; diffusers: OUT is a folder
for diffusers' ControlNetModel.from_pretrained"""


def convert_main(description: str | None, configs: Path, argv: Sequence[str] | None = None) -> None:
    """`tool_convert.py`: a ControlNet of any known shape in, the same in another shape out.

    Args:
        description: Of the program, for --help.
        configs: Folder of the yaml files to choose from where none is named.
        argv: Arguments; by default the program's.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("input", metavar="IN", type=Path, help="ControlNet: a file of any shape, or diffusers' folder")
    parser.add_argument(
        "output", metavar="OUT", type=Path, help="file or folder to make; a file's name says its format"
    )
    parser.add_argument("--to", choices=("ldm", "control", "diffusers"), required=True, help=_SHAPES)
    parser.add_argument(
        "--base", type=Path, help="Stable Diffusion; for --to ldm of a ControlNet alone, and for differences"
    )
    parser.add_argument(
        "--config", type=Path, help="yaml of the model; default: models/cldm_v15.yaml or cldm_v21.yaml, told from IN"
    )
    parser.add_argument("--half", action="store_true", help="store the weights in float16")
    options = parser.parse_args(argv)
    try:
        lines = _convert(options, configs)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    print("\n".join(lines))


def _convert(options: argparse.Namespace, configs: Path) -> list[str]:
    """What was done, in lines."""
    check_folder(options.output) if options.to == "diffusers" else check_file(options.output, _BESIDE[options.to])
    given = read_weights(options.input)
    base = None if options.base is None else read_weights(options.base)
    config = options.config or _config_of(given, configs)
    blueprint = Blueprint.of(create_model(config), str(config))
    lines = [f"{options.input}: {describe_version(shapes_of(given))}"]
    weights = to_ldm(given, base, blueprint) if options.to == "ldm" else to_control(given, base, blueprint)
    if options.to == "diffusers":
        surplus = sum(not name.startswith(CONTROL) for name in weights)
        weights = to_diffusers(weights)
        if surplus:
            lines.append(f"left out: the decoder that was trained with it ({surplus} tensors); --to ldm uses it")
    if options.half:
        weights = {name: halved(name, tensor) for name, tensor in weights.items()}
    whole, told = read_config(config)["params"], told_pooled(options.input)
    pooled = bool(whole.get(POOLED)) if told is None else told
    if doubt := pooling_doubt(options.input, pooled):
        lines.append(f"{doubt}, and convert it again")
    params = diffusers_config(whole["control_stage_config"]["params"], pooled)
    if options.to == "diffusers":
        written = save_diffusers_folder(weights, params, options.output)
    else:
        texts = {".yaml": _yaml(config, pooled), ".json": as_json(params)}
        written = save_file_with(weights, options.output, {suffix: texts[suffix] for suffix in _BESIDE[options.to]})
    return [
        *lines,
        f"wrote {written[0]} ({written[0].stat().st_size / 1e9:.2f} GB)",
        *(f"wrote {p}" for p in written[1:]),
    ]


def _yaml(config: Path, pooled: bool) -> str:
    """The config's text, changed where it says otherwise whether the ControlNet's outputs are averaged."""
    text = config.expanduser().read_text()
    if bool(read_config(config)["params"].get(POOLED)) == pooled:
        return text
    told = OmegaConf.create(text)
    told.model.params[POOLED] = pooled
    return OmegaConf.to_yaml(told)


def _config_of(given: HandedOver, configs: Path) -> Path:
    shapes = shapes_of(given)
    if detect_version(shapes) not in _CONFIGS:
        raise ValueError(f"{given.source} has weights of {describe_version(shapes)}; name its yaml with --config")
    return configs / _CONFIGS[detect_version(shapes)]
