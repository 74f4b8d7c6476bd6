from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from annotator.mlsd.mlsd_network import MLSDLarge, MLSDTiny
from annotator.util import load_network
from parity import assert_close, golden, published_names

SIZES = {"large": MLSDLarge, "tiny": MLSDTiny}
AUX_NAMES = {
    "large": ("controlnet_aux.mlsd.models.mbv2_mlsd_large", "MobileV2_MLSD_Large"),
    "tiny": ("controlnet_aux.mlsd.models.mbv2_mlsd_tiny", "MobileV2_MLSD_Tiny"),
}


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def checkpoint(size: str, filled_checkpoint: Callable[[str], Path]) -> Path:
    return filled_checkpoint(f"mlsd_{size}_512_fp32.pth")


@pytest.fixture
def network(size: str, checkpoint: Path) -> nn.Module:
    return load_network(SIZES[size](), checkpoint)


def test_names_and_shapes_are_the_published_ones(size: str, network: nn.Module) -> None:
    ours = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in network.state_dict().items()}
    assert ours == published_names(f"mlsd_{size}_512_fp32.pth")


@torch.inference_mode()
def test_map_is_the_golden_one(size: str, network: nn.Module) -> None:
    arrays = golden("mlsd")
    assert_close(network(torch.from_numpy(arrays[f"{size}_input"])), arrays[size])


@torch.inference_mode()
def test_map_is_that_of_controlnet_aux(size: str, network: nn.Module, checkpoint: Path) -> None:
    module, name = AUX_NAMES[size]
    aux = getattr(pytest.importorskip(module), name)()
    aux.load_state_dict(torch.load(checkpoint))
    x = 2 * torch.rand(2, 4, 80, 112, generator=torch.Generator().manual_seed(0)) - 1
    assert_close(network(x), aux.eval()(x))
