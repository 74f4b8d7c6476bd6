"""The bytes that a generation needs, counted on the miniature."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.generation_memory import measure


def counted(dtype: torch.dtype) -> dict[str, int]:
    with FakeTensorMode(), torch.no_grad():
        return measure("models/cldm_mini.yaml", 128, dtype)


def test_float16_halves_all_but_the_autoencoder():
    whole, half = counted(torch.float32), counted(torch.float16)
    for name in ("weights, unet", "weights, control", "weights, text"):
        assert half[name] == whole[name] / 2
    assert half["weights, vae"] == whole["weights, vae"]
    assert half["beside them, decoding"] == whole["beside them, decoding"]
    assert half["beside them, a denoising step"] < 0.6 * whole["beside them, a denoising step"]
