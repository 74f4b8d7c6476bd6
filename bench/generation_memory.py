"""Count the bytes of tensors on the device at each stage of a generation, without computing one.

Run `python -m bench.generation_memory` in the project's root. Networks and tensors are torch's fake ones, which have
shapes and devices and no values. Weights and activations are counted at full size; the device is called cpu, which
makes torch choose the attention that never holds the whole matrix.
"""

import argparse
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.live_bytes import LiveBytes
from cldm.conditions import AppliedControl, summed
from cldm.model import read_config
from ldm.modules.diffusionmodules.strips import Strips
from ldm.util import instantiate_from_config

_TOKENS = 77
_OTHER = "cuda"  # a second kind of device for fake tensors; nothing is there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="models/cldm_v15.yaml")
    parser.add_argument("--side", type=int, default=512, help="of the image, in pixels")
    parser.add_argument("--precision", choices=["float32", "float16", "bfloat16"], default="float32")
    options = parser.parse_args()
    with FakeTensorMode(), torch.no_grad():
        figures = measure(options.config, options.side, getattr(torch, options.precision))
    print(
        f"{options.config}, {options.side} pixels, one image, guidance on, {options.precision}\n\n| | GB |\n|---|---|"
    )
    for name, size in figures.items():
        print(f"| {name} | {size / 1e9:.2f} |", flush=True)


def measure(config: str, side: int, dtype: torch.dtype = torch.float32) -> dict[str, int]:
    """Bytes of each part's weights, and of what is alive beside these at the most; then the peaks by setting.

    As in `cldm.loading.load`, the autoencoder stays in float32 beside networks in float16.
    """
    params = read_config(config)["params"]
    stages = ("unet_config", "control_stage_config", "first_stage_config", "cond_stage_config")
    unet, control, autoencoder, text = (instantiate_from_config(params[stage]).eval() for stage in stages)
    for network in (unet, control, text) if dtype == torch.float16 else (unet, control, text, autoencoder):
        converted = {n: t.to(dtype) if t.is_floating_point() else t for n, t in network.state_dict().items()}
        network.load_state_dict(converted, assign=True)
    parts = {"unet": unet, "control": control, "vae": autoencoder, "text": text}
    weights = {name: _size(m) for name, m in parts.items()}
    latent, times = torch.empty(1, 4, side // 8, side // 8, dtype=dtype), torch.empty(1)
    encoded = latent.to(autoencoder.dtype)
    tokens = torch.empty(2, _TOKENS, params["unet_config"]["params"]["context_dim"], dtype=dtype)
    keys, control_keys = unet.text_keys(tokens), control.text_keys(tokens)
    applied = AppliedControl(control, torch.empty(1, 3, side, side, dtype=dtype), [1.0] * control.num_connections)
    _ = applied.features  # made now, so that it is not counted

    def step() -> Any:
        return unet(latent, times, keys, summed([applied.outputs(latent, times, control_keys)]))

    activations = {
        "step": _beside("cpu", step),
        "decode": _beside("cpu", lambda: autoencoder.decoder(encoded)),
        "strips": _beside(
            "cpu", lambda: Strips(torch.device("cpu"), torch.device(_OTHER)).decode(autoencoder.decoder, encoded)
        ),
    }
    everything = sum(weights.values())
    denoising = weights["unet"] + weights["control"] + activations["step"]
    return {
        **{f"weights, {name}": size for name, size in weights.items()},
        "beside them, a denoising step": activations["step"],
        "beside them, decoding": activations["decode"],
        "beside them, decoding in strips": activations["strips"],
        "peak": everything + max(activations["step"], activations["decode"]),
        "peak with save_memory": max(weights["text"], denoising, weights["vae"] + activations["strips"]),
        "peak with save_memory, two ControlNets": denoising + weights["control"],
    }


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def _beside(device: str, run: Any) -> int:
    """Bytes on the device at the most while something runs, above what was there."""
    memory = LiveBytes(device=device)
    with memory:
        memory.look_around()
        before = memory.now
        run()
    return memory.peak - before


if __name__ == "__main__":
    main()
