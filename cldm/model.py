"""Models from configs, and weights into models."""

import warnings
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cldm.cldm import ControlLDM, ControlNet
from cldm.weights.blueprint import Blueprint
from cldm.weights.converting import to_control
from cldm.weights.layouts import CONTROL, DIFFERENCE
from cldm.weights.merging import merge
from cldm.weights.pooling import pooling_doubt, told_pooled
from cldm.weights.precision import in_precision
from cldm.weights.reading import read_weights
from ldm.deferred import HandedOver, deferred
from ldm.util import choose_device, instantiate_from_config


def read_config(path: str | Path) -> dict[str, Any]:
    """The "model" part of a yaml, as plain data.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no yaml, or has no "model".
    """
    path = Path(path).expanduser()
    if not path.is_file():
        known = ", ".join(sorted(f"models/{p.name}" for p in (Path(__file__).parent.parent / "models").glob("*.yaml")))
        raise FileNotFoundError(f"no config {path}; the project has {known}")
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"cannot read {path} as a yaml config: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise ValueError(f"expected {path} to have the key 'model' as models/cldm_v15.yaml has")
    return config["model"]


def create_model(config_path: str | Path) -> ControlLDM:
    """The model that a yaml describes, on the CPU.

    Its weights are initialised at their first use, or never if weights are loaded before; see `ldm.deferred`.

    Raises:
        FileNotFoundError: If there is no such yaml.
        ValueError: If the yaml asks for what there is not.
    """
    config = read_config(config_path)
    return deferred(lambda: instantiate_from_config(config))


def load_state_dict(path: str | Path, location: str | torch.device = "cpu", ema: bool = False) -> HandedOver:
    """The tensors of a checkpoint in any format, by name, for a model's `load_state_dict`.

    They have memory of their own, so that the file may be saved over; `load_model` needs half of it.

    Args:
        path: See `read_weights`.
        location: Device to put them on.
        ema: Whether to use the averaged weights, `model_ema.*`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or something else than weights.
    """
    weights = read_weights(path, ema)
    copies = {name: weights.pop(name).to(location, copy=True) for name in list(weights)}  # one tensor twice at most
    return HandedOver(copies, weights.source, weights.metadata)


def load_model(
    config: str | Path,
    *checkpoints: str | Path | HandedOver,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    ema: bool = False,
    pooled: bool | None = None,
) -> ControlLDM:
    """A ready model in evaluation mode.

    Args:
        config: A yaml.
        checkpoints: One file with everything, or a Stable Diffusion and then a ControlNet in any known shape; or what
            `read_weights` made of them, whose tensors the model then shares.
        device: To put it on; on the CPU its weights stay mapped from the files.
        dtype: Precision of the networks, by default the config's, float32. With float16 the autoencoder stays in
            float32, since it overflows; the noise schedule always does.
        ema: Whether to use a base's averaged weights.
        pooled: Whether the ControlNet's outputs are averaged over the image, as ControlNet 1.1's "shuffle" needs; by
            default as its file says (see `told_pooled`), or else `config`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, of another version, or not everything that the model needs and nothing else.
    """
    target = choose_device(device)
    model = create_model(config)
    if not 1 <= len(checkpoints) <= 2:
        raise ValueError(
            f"expected one checkpoint with everything, or a Stable Diffusion and a ControlNet, got {len(checkpoints)}"
        )
    base, *rest = (_read(given, ema and i == 0) for i, given in enumerate(checkpoints))
    weights = merge(base, rest[0] if rest else None, Blueprint.of(model, str(config)))
    model.load_state_dict(in_precision(weights, dtype or torch.float32), assign=True)
    network = model.control_model
    network.global_average_pooling = _pooled([base, *rest][-1], pooled, network.global_average_pooling)
    model = model.eval()
    return model if target.type == "cpu" else model.to(target)


def load_control(
    config: str | Path,
    checkpoint: str | Path,
    base: str | Path | HandedOver,
    dtype: torch.dtype | None = None,
    pooled: bool | None = None,
) -> ControlNet:
    """A ControlNet alone, on the CPU and in evaluation mode, to be used beside a model's own.

    Args:
        config: The model's yaml.
        checkpoint: The ControlNet in any known shape.
        base: The model's Stable Diffusion, or what `read_weights` made of it; read only if the ControlNet is stored as
            the difference to it.
        dtype: Its precision, float32 by default.
        pooled: Whether its outputs are averaged over the image; by default as its file says, see `told_pooled`. The
            config, which is the model's, is not asked.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or of another version, or was trained with a decoder of its own.
    """
    blueprint = Blueprint.of(create_model(config), str(config))
    given = read_weights(checkpoint)
    control = to_control(given, _read(base) if DIFFERENCE in given else None, blueprint)
    if len(control) > len(blueprint.control):
        raise ValueError(
            f"{checkpoint} was trained together with a U-Net's decoder, which cannot be shared with other ControlNets; "
            "load it as the model's own, in the place of the checkpoint"
        )
    params = read_config(config)["params"]["control_stage_config"]
    network = deferred(lambda: instantiate_from_config(params))
    weights = in_precision(control, dtype or torch.float32)
    named = {name.removeprefix(CONTROL): tensor for name, tensor in weights.items()}
    network.load_state_dict(HandedOver(named, given.source), assign=True)
    network.global_average_pooling = _pooled(given, pooled, False)
    return network.eval().requires_grad_(False)


def _read(given: str | Path | HandedOver, ema: bool = False) -> HandedOver:
    return given if isinstance(given, HandedOver) else read_weights(given, ema)


def _pooled(control: HandedOver, given: bool | None, usual: bool) -> bool:
    """As the caller says, or what belongs to the file, or as usual."""
    if given is not None:
        return given
    told = told_pooled(control.source)
    pooled = usual if told is None else told
    if doubt := pooling_doubt(control.source, pooled):
        warnings.warn(f"{doubt}, or load it with pooled", stacklevel=3)
    return pooled
