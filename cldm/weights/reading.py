"""Checkpoint files of any format to flat dictionaries of tensors, memory-mapped, without running code from them."""

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cldm.weights import legacy_pickle, restricted_pickle
from cldm.weights.expected import SCHEDULE
from cldm.weights.folders import weights_file
from cldm.weights.mapped import mapped_tensors
from ldm.deferred import HandedOver

_EMA = "model_ema."
_UNET = "model.diffusion_model."
_TEXT_MODEL = "cond_stage_model.transformer.text_model."
_BARE_TEXT_MODEL = re.compile(r"cond_stage_model\.transformer\.(?=(embeddings|encoder|final_layer_norm)\.)")
_DAMAGED = (  # what reading a cut or altered archive, pickle or safetensors file raises, depending on where it is hurt
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_weights(path: str | Path, ema: bool = False) -> HandedOver:
    """The tensors of a .safetensors, .ckpt, .pth or .pt file on the CPU, by name.

    The format is told from the content. Tensors are mapped from the file where its format allows it: they take memory
    when they are changed, and the file does not change with them. No two of them share memory.

    Args:
        path: The file, or the folder of a diffusers model; {"state_dict": tensors} is unwrapped. Anything that is no
            tensor is left out, and so is a noise schedule in half precision, which is too coarse to use: it follows
            from the config. The text encoder has its published names, also where the file's lack `text_model.`.
        ema: Whether the U-Net's weights are to be the averaged ones, `model_ema.*`; these are left out otherwise.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or something else than weights, or has no averaged weights to use.
    """
    path = weights_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: check the name, and the folder it is given from ({Path.cwd()})")
    with path.open("rb") as file:
        start = file.read(512)
    read = _reader(path, start)
    try:
        content = read(path)
    except _DAMAGED as error:
        raise ValueError(
            f"cannot read {path} ({path.stat().st_size} bytes): {_shortened(error)}. It is cut short, damaged, or no "
            "checkpoint; fetch it again and compare its size with the published one"
        ) from error
    tensors = _with_text_model(_tensors(content, path))
    metadata = read_metadata(path) if read is mapped_tensors else {}
    return HandedOver(_choose_ema(tensors, path) if ema else _without_ema(tensors), str(path), metadata)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The texts in the header of a .safetensors file, by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"cannot read the header of {path}: {error}") from error


def told_by_run(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """The "settings" or "config" of the training run that saved a file, by its header; empty if no run did."""
    try:
        told = json.loads(metadata.get(name, "{}"))
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _reader(path: Path, start: bytes) -> Any:
    """How to read a file that starts so."""
    if start[:4] == b"PK\x03\x04":
        return _read_archive
    if len(start) > 8 and start[8:9] == b"{":
        return mapped_tensors
    if start[:1] == b"\x80":
        return legacy_pickle.load
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        found = "an HTML page: the page about a file was saved instead of the file; use its download link"
    elif text.startswith(b"version https://git-lfs"):
        found = "a Git LFS pointer: fetch the content with `git lfs pull`, or download the file itself"
    elif not start:
        found = "empty: the download did not even begin; fetch it again"
    else:
        found = f"something else (it starts with {start[:16]!r}): fetch it again, or check what it is"
    raise ValueError(f"expected {path} to be a checkpoint (.safetensors, .ckpt, .pth, .pt), but it is {found}")


def _read_archive(path: Path) -> Any:
    """What `torch.save` writes since 2020: a zip archive of one pickle and the tensors' bytes."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(Path(member.filename).name == "constants.pkl" for member in members):
        raise ValueError("it is a TorchScript program, not weights")  # torch.load would run it
    if not any(Path(member.filename).name == "data.pkl" for member in members):
        raise ValueError("it is a zip archive, but not of weights; unpack it")
    mapped = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    mapped &= path.suffix != ".safetensors"  # a path with this ending, torch.load takes at its word
    with path.open("rb") as file:
        return torch.load(
            path if mapped else file, "cpu", mmap=mapped, weights_only=False, pickle_module=restricted_pickle
        )


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors in `content` or in its "state_dict", each with memory of its own."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(f"expected {path} to hold a dictionary of tensors, but it holds {type(content).__name__}")
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in content.items():
        coarse = name in SCHEDULE and isinstance(value, Tensor) and value.dtype != torch.float32
        if isinstance(name, str) and isinstance(value, Tensor) and not coarse:
            tensors[name] = own_storage(value.detach(), seen)
    if not tensors:
        raise ValueError(f"expected {path} to hold tensors, but it has {_names(content)}; is it a file of weights?")
    return tensors


def own_storage(tensor: Tensor, seen: set[int]) -> Tensor:
    """The tensor, contiguous, in a storage of just its size that no tensor seen before has; copied only if need be.

    Args:
        tensor: On the CPU.
        seen: Addresses of the storages seen before; the tensor's is added.
    """
    size, start = tensor.element_size(), tensor.data_ptr()
    if not tensor.is_contiguous() or start in seen or start % size:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    elif tensor.untyped_storage().nbytes() != tensor.nbytes:
        first = tensor.storage_offset() * size
        part = tensor.untyped_storage()[first : first + tensor.nbytes]
        tensor = torch.empty(0, dtype=tensor.dtype).set_(part, 0, tensor.shape, tensor.stride())
    if tensor.nbytes:
        seen.add(tensor.data_ptr())
    return tensor


def _with_text_model(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by their published names: NovelAI's files, and what transformers 5 makes, lack a part of them."""
    if any(name.startswith(_TEXT_MODEL) for name in tensors):
        return tensors
    return {_BARE_TEXT_MODEL.sub(_TEXT_MODEL, name): tensor for name, tensor in tensors.items()}


def _without_ema(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_EMA)}


def _choose_ema(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The U-Net's weights replaced by their averages, which are stored under the names without their dots."""
    if not any(name.startswith(_EMA) for name in tensors):
        raise ValueError(
            f"{path} has no averaged weights (model_ema.*) to use; leave out --ema (ema=True in Python): a file whose "
            "name says emaonly has them in the place of the others"
        )
    chosen = _without_ema(tensors)
    unet = [name for name in chosen if name.startswith(_UNET)]
    averages = {name: _EMA + name.removeprefix("model.").replace(".", "") for name in unet}
    missing = [average for average in averages.values() if average not in tensors]
    if missing or len(set(averages.values())) != len(averages):
        raise ValueError(
            f"{path} has averaged weights for {len(unet) - len(missing)} of the {len(unet)} of its U-Net, missing are "
            f"{', '.join(missing[:3])}; leave out --ema (ema=True in Python)"
        )
    return {**chosen, **{name: tensors[average] for name, average in averages.items()}}


def _names(content: Mapping[Any, Any]) -> str:
    names = [str(name) for name in content]
    return f"{', '.join(names[:5])} and {len(names) - 5} more" if len(names) > 5 else ", ".join(names) or "nothing"


def _shortened(error: Exception, limit: int = 200) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= limit else f"{words[:limit]} ..."
