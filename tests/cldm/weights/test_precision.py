"""What is converted, and what is not."""

import torch

from cldm.weights.precision import halved, in_precision
from ldm.deferred import HandedOver


def test_the_schedule_stays_and_the_autoencoder_is_never_float16():
    names = ["betas", "first_stage_model.x", "model.diffusion_model.x"]
    weights = HandedOver({name: torch.ones(2) for name in names} | {"ids": torch.arange(2)}, "file")

    def dtypes(dtype):
        converted = in_precision(weights, dtype)
        assert converted.source == "file"
        return [converted[name].dtype for name in [*names, "ids"]]

    f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16
    assert dtypes(f32) == [f32, f32, f32, torch.int64]
    assert dtypes(f16) == [f32, f32, f16, torch.int64]
    assert dtypes(bf16) == [f32, bf16, bf16, torch.int64]


def test_weights_in_the_wanted_precision_are_not_copied():
    weights = HandedOver({"a.b": torch.ones(2)}, "file")
    assert in_precision(weights, torch.float32)["a.b"] is weights["a.b"]


def test_half_files_keep_the_schedule_and_integers():
    assert halved("first_stage_model.x", torch.ones(1)).dtype == torch.float16
    assert halved("alphas_cumprod", torch.ones(1)).dtype == torch.float32
    assert halved("a.position_ids", torch.arange(3)).dtype == torch.int64
