"""The linear layer of the transformers against PyTorch's own."""

import pytest
import torch
from torch import nn

from ldm.modules import linear
from ldm.modules.convolution import conv2d
from ldm.modules.linear import Linear, with_own_linear


@pytest.fixture(params=[True, False], ids=["convolved", "multiplied"])
def convolved(request, monkeypatch) -> list[int]:
    """Rows of each convolution that there is; on every machine, whatever it does by itself."""
    monkeypatch.setattr(linear, "_ONEDNN", request.param)
    monkeypatch.setattr(linear, "_FEWEST_PRODUCTS", 128 * 24 * 40)
    rows: list[int] = []
    monkeypatch.setattr(linear, "conv2d", lambda x, *args: rows.append(x.shape[2]) or conv2d(x, *args))
    return rows


def layers(bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[Linear, nn.Linear]:
    torch.manual_seed(0)
    ours, theirs = Linear(24, 40, bias, dtype=dtype), nn.Linear(24, 40, bias, dtype=dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 77, 24), (128, 24), (24,), (3, 0, 24), (2, 8, 16, 24)])
def test_values_and_gradients_are_those_of_a_linear_layer(convolved, bias, shape):
    ours, theirs = layers(bias)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    given = [x.clone().requires_grad_() for _ in range(2)]
    results = [layer(each) for layer, each in zip((ours, theirs), given, strict=True)]
    for y in results:
        y.square().sum().backward()
    assert results[0].is_contiguous()
    torch.testing.assert_close(*results)
    torch.testing.assert_close(given[0].grad, given[1].grad)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-4)
        assert mine.grad.stride() == other.grad.stride()


def test_rows_that_are_not_contiguous_are_taken_as_they_are(convolved):
    ours, theirs = layers()
    x = torch.randn(2, 24, 64, generator=torch.Generator().manual_seed(1)).transpose(1, 2)
    torch.testing.assert_close(ours(x), theirs(x))


def test_on_these_cpus_a_large_product_is_one_convolution_of_all_rows(convolved):
    layer, _ = layers()
    layer(torch.ones(2, 77, 24))
    layer(torch.ones(127, 24))
    assert convolved == ([154] if linear._ONEDNN else [])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_other_devices_and_precisions_are_left_to_pytorch(convolved, device):
    ours, _ = layers(dtype=torch.float32 if device == "meta" else torch.bfloat16)
    x = torch.ones(2, 77, 24, dtype=ours.weight.dtype, device=device)
    assert ours.to(device)(x).shape == (2, 77, 40)
    assert convolved == []


def test_another_librarys_network_gets_this_forward_and_keeps_its_weights(convolved):
    network = nn.Sequential(nn.Linear(24, 40), nn.Sequential(nn.ReLU(), nn.Linear(40, 24, bias=False)))
    x = torch.randn(150, 24, generator=torch.Generator().manual_seed(1))
    expected, before = network(x), dict(network.named_parameters())
    assert convolved == []
    assert with_own_linear(network) is network
    torch.testing.assert_close(network(x), expected)
    assert convolved == ([150, 150] if linear._ONEDNN else [])
    assert all(parameter is before[name] for name, parameter in network.named_parameters())
