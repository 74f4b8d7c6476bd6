from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from annotator.hed.hed_network import REACH, STRIDE, HEDNetwork
from annotator.util import load_network
from parity import assert_close, golden, published_names


@pytest.fixture(scope="module")
def network(filled_checkpoint: Callable[[str], Path]) -> HEDNetwork:
    return load_network(HEDNetwork(), filled_checkpoint("ControlNetHED.pth"))


def test_names_and_shapes_are_the_published_ones(network: HEDNetwork) -> None:
    ours = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in network.state_dict().items()}
    assert ours == published_names("ControlNetHED.pth")


@torch.inference_mode()
def test_projections_are_the_golden_ones(network: HEDNetwork) -> None:
    arrays = golden("hed")
    projections = network(torch.from_numpy(arrays["image"]).permute(2, 0, 1)[None].float())
    assert len(projections) == 5
    for i, projection in enumerate(projections, start=1):
        assert_close(projection, arrays[f"projection{i}"], f"projection {i}")


@torch.inference_mode()
def test_projections_are_those_of_controlnet_aux(network: HEDNetwork, filled_checkpoint: Callable[[str], Path]) -> None:
    aux = pytest.importorskip("controlnet_aux.hed").ControlNetHED_Apache2()
    aux.load_state_dict(torch.load(filled_checkpoint("ControlNetHED.pth")))
    image = 255 * torch.rand(2, 3, 48, 80, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(network(image), aux(image), strict=True):
        assert_close(ours, theirs)


def test_no_projection_reaches_farther_than_stated(network: HEDNetwork) -> None:
    """The gradient of the coarsest projection's middle cell, which looks farthest, ends within the reach."""
    side, cell = 15 * STRIDE, 7
    image: Tensor = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 255
    image.requires_grad_()
    network(image)[-1][0, 0, cell, cell].backward()
    seen = image.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    assert cell * STRIDE - seen.min() <= REACH
    assert seen.max() + 1 - (cell + 1) * STRIDE <= REACH
    assert cell * STRIDE - seen.min() > REACH - STRIDE  # and it is no looser than the stride asks
