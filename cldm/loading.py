"""From files to a model ready for `cldm.pipeline.generate`, with as many ControlNets as are asked for."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cldm.cldm import ControlLDM, ControlNet
from cldm.compiling import compile_network
from cldm.freed_memory import give_back_freed_memory, keep_freed_memory
from cldm.model import load_control, load_model
from cldm.model_files import ModelFiles
from cldm.residency import on_device
from cldm.weights.layouts import CONTROL
from cldm.weights.mapped import let_go
from cldm.weights.reading import read_weights
from ldm.util import choose_device

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A Stable Diffusion with its ControlNets, as `load` makes it.

    Attributes:
        ldm: The model; its own ControlNet is the first.
        controls: All ControlNets, in the order that `Control.model` counts in.
        device: Where it computes.
        save_memory: Whether a part is on the device, and in memory if it is mapped from a file, only while it is in
            use, and the autoencoder works in strips.
    """

    ldm: ControlLDM
    controls: tuple[ControlNet, ...]
    device: torch.device
    save_memory: bool = False

    @property
    def pooled(self) -> tuple[int, ...]:
        """Places of the ControlNets whose outputs are averaged over the image."""
        return tuple(place for place, network in enumerate(self.controls) if network.global_average_pooling)

    @property
    def rest(self) -> torch.device | None:
        """Where the autoencoder's whole feature maps are while it works in strips; None if it does not."""
        return torch.device("cpu") if self.save_memory else None

    @contextmanager
    def using(self, *networks: nn.Module) -> Iterator[None]:
        """Have networks of this model on its device for a while; with `save_memory`, no others take memory meanwhile.

        Args:
            networks: Some of `ldm.cond_stage_model`, `ldm.model`, `ldm.first_stage_model`, and of `controls`.
        """
        all_networks = (self.ldm.cond_stage_model, self.ldm.model, self.ldm.first_stage_model, *self.controls)
        idle = [network for network in all_networks if self.save_memory and network not in networks]
        if self.save_memory:
            give_back_freed_memory()
        with let_go(*idle), on_device(self.device, *networks):
            yield

    @classmethod
    def of(cls, model: "ControlLDM | LoadedModel") -> "LoadedModel":
        """The model itself, or a ControlLDM with its one ControlNet where its weights are."""
        if isinstance(model, LoadedModel):
            return model
        return cls(model, (model.control_model,), model.alphas_cumprod.device)


def load(
    files: ModelFiles,
    device: str | torch.device = "auto",
    precision: str = "auto",
    controls: Sequence[str | Path] = (),
    *,
    save_memory: bool = False,
    compile: bool = False,
    pooled: Mapping[int, bool] | None = None,
) -> LoadedModel:
    """A model ready for `generate`.

    Args:
        files: Configuration and weights, see `find_model`.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: Of the networks: auto (float16 on CUDA, else float32), float32, bfloat16 or float16. The
            autoencoder and Stable Diffusion 2.1's attention, which overflow in float16, compute in float32 then.
        controls: Files of ControlNets beside the one in `files`, in any known shape (a full checkpoint, the ControlNet
            alone with or without prefix, diffusers' file or folder, a difference). They share the base's memory. If
            `files` is a Stable Diffusion without a ControlNet, the first of these takes its place.
        save_memory: Keep on the device only what is in use, give weights that are not in use back to the file that
            they are mapped from (a .safetensors file in this precision), and let the autoencoder work in strips; the
            images are the same within rounding. On a CPU, the process keeps freed memory for the next step either way
            (`cldm.freed_memory`), and with this gives it back where another part begins.
        compile: Compile the networks with `torch.compile` at their first use, which takes minutes; needs a compiler.
        pooled: Whether a ControlNet's outputs are averaged over the image, as ControlNet 1.1's "shuffle" needs, by its
            place in `LoadedModel.controls`. By default as its file says (see `cldm.weights.pooling.told_pooled`); of
            the model's own that says nothing, as the configuration does.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is damaged or does not fit the configuration, or device, precision or a place are unknown.
    """
    chosen = choose_device(device)
    keep_freed_memory(chosen)
    dtype = choose_precision(precision, chosen)
    ldm, *networks = _networks(files, controls, dtype, pooled or {})
    if save_memory:
        for name, buffer in ldm.named_buffers(recurse=False):  # the noise schedule; the samplers compute where it is
            setattr(ldm, name, buffer.to(chosen))
    elif chosen.type != "cpu":
        for module in (ldm, *networks):
            module.to(chosen)
    controls_in_order = (ldm.control_model, *networks)
    if compile:
        for network in (ldm.model.diffusion_model, *controls_in_order):
            compile_network(network, chosen)
    return LoadedModel(ldm, controls_in_order, chosen, save_memory)


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type of that name; "auto" is float16 on CUDA and float32 elsewhere.

    Raises:
        ValueError: If there is none of that name.
    """
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if precision not in _PRECISIONS:
        raise ValueError(f"precision must be auto, {', '.join(_PRECISIONS)}, got {precision!r}")
    return _PRECISIONS[precision]


def _networks(
    files: ModelFiles, controls: Sequence[str | Path], dtype: torch.dtype, pooled: Mapping[int, bool]
) -> tuple[ControlLDM | ControlNet, ...]:
    """The model and the ControlNets beside its own, on the CPU; the base, which may take memory, is read once."""
    base, *own = read_weights(files.checkpoints[0]), *files.checkpoints[1:]
    further = list(controls)
    if further and not own and not any(name.startswith(CONTROL) for name in base):
        own.append(further.pop(0))
    if unknown := set(pooled) - set(range(1 + len(further))):
        raise ValueError(f"pooled has the places {sorted(unknown)}, but the last of the ControlNets is {len(further)}")
    ldm = load_model(files.config, base, *own, device="cpu", dtype=dtype, pooled=pooled.get(0)).requires_grad_(False)
    numbered = enumerate(further, 1)
    return ldm, *(load_control(files.config, file, base, dtype, pooled.get(place)) for place, file in numbered)
