"""Parts of the miniature kept from a base, and the files that are made."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cldm.model import load_model
from cldm.weights.reading import read_weights
from training.mini.latents import encode
from training.mini.make import BASE, CONTROL, half, kept_parts, save, save_base

MODELS = Path(__file__).resolve().parents[3] / "models"


def test_kept_parts_are_those_of_the_files():
    text_model, autoencoder, unet, control = kept_parts(MODELS)
    model = load_model(MODELS / "cldm_mini.yaml", MODELS / BASE, MODELS / CONTROL, device="cpu")
    prompts = ["light coral star with navy background", ""]
    assert torch.equal(text_model(prompts), model.cond_stage_model(prompts))
    z = torch.randn(1, 4, 8, 8)
    assert torch.equal(autoencoder.decode(z), model.first_stage_model.decode(z))
    x, t, context = torch.randn(1, 4, 16, 16), torch.tensor([500]), model.get_learned_conditioning(prompts[:1])
    assert torch.equal(unet(x, t, context), model.model.diffusion_model(x, t, context))
    hint = torch.rand(1, 3, 128, 128)
    for ours, theirs in zip(control(x, hint, t, context), model.control_model(x, hint, t, context), strict=True):
        assert torch.equal(ours, theirs)


def test_a_base_is_saved_as_it_was_read(tmp_path):
    *parts, _ = kept_parts(MODELS)
    save_base(*parts, tmp_path / BASE)
    written, shipped = read_weights(tmp_path / BASE), read_weights(MODELS / BASE)
    assert set(written) == set(shipped)
    assert all(torch.equal(written[name], shipped[name]) for name in shipped)


def test_a_file_has_half_precision_and_the_prefix(tmp_path):
    network = nn.Linear(2, 3)
    save(half("part.", network), tmp_path / "new" / "file.safetensors")
    weights = read_weights(tmp_path / "new" / "file.safetensors")
    assert set(weights) == {"part.weight", "part.bias"}
    assert torch.equal(weights["part.weight"], network.weight.half())
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["file.safetensors"]


def test_latents_are_encoded_once_and_have_a_standard_deviation_of_1(tmp_path):
    _, autoencoder, *_ = kept_parts(MODELS)
    first = encode(autoencoder, tmp_path, count=32)
    assert first.z.shape == (32, 4, 16, 16)
    assert abs(first.z.std().item() - 1) < 1e-3
    autoencoder.encode = None  # not called again
    again = encode(autoencoder, tmp_path, count=32)
    assert torch.equal(again.z, first.z)
    assert np.array_equal([scene.prompt for scene in again.scenes], [scene.prompt for scene in first.scenes])


def test_latents_of_another_autoencoder_are_refused(tmp_path):
    _, autoencoder, *_ = kept_parts(MODELS)
    encode(autoencoder, tmp_path, count=16)
    autoencoder.quant_conv.bias.data += 1
    with pytest.raises(ValueError, match=r"latents\.pt is not of this autoencoder.*move it away"):
        encode(autoencoder, tmp_path, count=16)
    torch.save([torch.zeros(16, 4, 16, 16).half()], tmp_path / "latents.pt")  # as it was without a hash
    with pytest.raises(ValueError, match="move it away"):
        encode(autoencoder, tmp_path, count=16)
