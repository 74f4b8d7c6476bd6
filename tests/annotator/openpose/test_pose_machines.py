"""The networks: published names, golden outputs, and controlnet_aux on the same weights."""

import pytest
import torch
from torch import nn

from annotator.openpose.pose_machines import BodyNetwork, HandNetwork
from parity import assert_close, fill_module, golden, published_names


@pytest.fixture(scope="module")
def body() -> BodyNetwork:
    network = BodyNetwork().eval().requires_grad_(False)
    fill_module(network)
    return network


@pytest.fixture(scope="module")
def hand() -> HandNetwork:
    network = HandNetwork().eval().requires_grad_(False)
    fill_module(network)
    return network


@pytest.mark.parametrize(("name", "file"), [("body", "body_pose_model.pth"), ("hand", "hand_pose_model.pth")])
def test_state_dict_has_the_published_names(name: str, file: str, request: pytest.FixtureRequest) -> None:
    state = request.getfixturevalue(name).state_dict()
    assert {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in state.items()} == published_names(file)


def test_body_network_gives_the_golden_outputs(body: BodyNetwork) -> None:
    expected = golden("openpose")
    fields, heatmaps = body(torch.from_numpy(expected["body_input"]))
    assert_close(fields, expected["body_paf"], "fields")
    assert_close(heatmaps, expected["body_heatmap"], "heat maps")


def test_hand_network_gives_the_golden_outputs(hand: HandNetwork) -> None:
    expected = golden("openpose")
    assert_close(hand(torch.from_numpy(expected["hand_input"])), expected["hand_heatmap"])


def load_theirs(network: nn.Module, ours: nn.Module) -> nn.Module:
    """Give a network of controlnet_aux our weights; its names have a part more."""
    state = ours.state_dict()
    network.load_state_dict({name: state[name.split(".", 1)[1]] for name in network.state_dict()})
    return network.eval().requires_grad_(False)


def test_networks_agree_with_controlnet_aux_on_a_batch_of_another_shape(body: BodyNetwork, hand: HandNetwork) -> None:
    from controlnet_aux.open_pose import model

    image = torch.rand(2, 3, 48, 80, generator=torch.manual_seed(0)) - 0.5
    their_body, their_hand = load_theirs(model.bodypose_model(), body), load_theirs(model.handpose_model(), hand)
    for ours, theirs in zip(body(image), their_body(image), strict=True):
        assert_close(ours, theirs)
    assert_close(hand(image), their_hand(image))


def test_networks_can_be_differentiated() -> None:
    image = torch.zeros(1, 3, 16, 16, requires_grad=True)
    fields, heatmaps = BodyNetwork()(image)
    (fields.sum() + heatmaps.sum()).backward()
    assert image.grad.shape == image.shape
