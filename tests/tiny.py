"""The small networks that the golden files were made with."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from cldm.cldm import ControlLDM, ControlledUnetModel, ControlNet
from parity import fill_module

TEXT = {"target": "torch.nn.Identity"}
CLIP = {
    "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
    "params": {"width": 48, "layers": 1, "heads": 4},
}
AUTOENCODER = {
    "target": "ldm.models.autoencoder.AutoencoderKL",
    "params": {
        "embed_dim": 4,
        "ddconfig": {
            "double_z": True,
            "z_channels": 4,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 32,
            "ch_mult": [1, 2, 4, 4],
            "num_res_blocks": 2,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
    },
}


def encoder_params(version: str) -> dict[str, Any]:
    """Arguments of both networks in the style of SD "15" or "21"."""
    params: dict[str, Any] = {
        "in_channels": 4,
        "model_channels": 32,
        "attention_resolutions": [2, 1],
        "num_res_blocks": 1,
        "channel_mult": [1, 2],
        "transformer_depth": 1,
        "context_dim": 48,
        "use_spatial_transformer": True,
        "legacy": False,
    }
    if version == "15":
        return {**params, "num_heads": 4}
    return {**params, "num_head_channels": 16, "use_linear_in_transformer": True}


def unet(version: str = "15") -> ControlledUnetModel:
    network = ControlledUnetModel(out_channels=4, **encoder_params(version)).eval()
    fill_module(network, "model.diffusion_model.")
    return network


def controlnet(version: str = "15") -> ControlNet:
    network = ControlNet(hint_channels=3, **encoder_params(version)).eval()
    fill_module(network, "control_model.")
    return network


def ldm_params(**changes: Any) -> dict[str, Any]:
    """Arguments of a ControlLDM of the tiny15 pair; the text encoder is the identity unless changed."""
    return {
        "unet_config": {
            "target": "cldm.cldm.ControlledUnetModel",
            "params": {"out_channels": 4, **encoder_params("15")},
        },
        "control_stage_config": {
            "target": "cldm.cldm.ControlNet",
            "params": {"hint_channels": 3, **encoder_params("15")},
        },
        "first_stage_config": AUTOENCODER,
        "cond_stage_config": TEXT,
        "linear_start": 0.00085,
        "linear_end": 0.0120,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "control_key": "hint",
        "image_size": 8,
        "scale_factor": 0.18215,
        **changes,
    }


def control_ldm(parameterization: str = "eps", **changes: Any) -> ControlLDM:
    """The tiny15 pair as a ControlLDM, its weights by their published names."""
    model = ControlLDM(**ldm_params(parameterization=parameterization, **changes)).eval()
    fill_module(model)
    return model


def write_model(folder: Path) -> tuple[Path, Path]:
    """A yaml and a checkpoint of the tiny ControlLDM with a text encoder; images of 64 pixels."""
    config, checkpoint = folder / "tiny.yaml", folder / "control_tiny_canny.safetensors"
    params = ldm_params(cond_stage_config=CLIP)
    config.write_text(json.dumps({"model": {"target": "cldm.cldm.ControlLDM", "params": params}}))  # JSON is yaml
    save_file(control_ldm(cond_stage_config=CLIP).state_dict(), checkpoint)
    return config, checkpoint
