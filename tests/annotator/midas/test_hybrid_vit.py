import pytest
import torch
from torch.nn import functional as F

from annotator.midas.hybrid_vit import POSITIONS, HybridViT, Stage, StandardizedConv2d


def test_filters_have_zero_mean_and_unit_variance() -> None:
    convolution = StandardizedConv2d(3, 8, 3)
    impulse = torch.zeros(1, 3, 5, 5)
    impulse[:, :, 2, 2] = 1  # the response sums the filters over the input channels
    with torch.no_grad():
        weight = convolution.weight.double()
        standard = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), correction=0, keepdim=True)
        response = convolution(impulse)[0, :, 1:4, 1:4]
    torch.testing.assert_close(response, standard.sum(1).flip(1, 2).float(), atol=1e-5, rtol=1e-5)


def test_a_constant_filter_gives_zero_not_nan() -> None:
    convolution = StandardizedConv2d(3, 8, 3)
    torch.nn.init.constant_(convolution.weight, 0.3)
    with torch.no_grad():
        assert convolution(torch.ones(1, 3, 4, 4)).abs().max() < 1e-2


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (1, 2), (3, 2), (7, 2)])
def test_padding_halves_the_sides_per_stride(kernel: int, stride: int) -> None:
    convolution = StandardizedConv2d(3, 4, kernel, stride)
    with torch.no_grad():
        assert convolution(torch.zeros(1, 3, 64, 32)).shape == (1, 4, 64 // stride, 32 // stride)


def test_the_odd_padded_pixel_is_right_and_below() -> None:
    convolution = StandardizedConv2d(1, 1, 3, stride=2)
    x = torch.zeros(1, 1, 4, 4)
    x[..., 2, 2] = 1  # in windows of pixels 0-2 and 2-4; it would be in 1-3 alone if the padding were left
    with torch.no_grad():
        assert convolution(x).count_nonzero() == 4


def test_a_stage_has_one_shortcut_convolution() -> None:
    shortcuts = [name for name in Stage(3, 64, 256, 1).state_dict() if "downsample.conv" in name]
    assert shortcuts == ["blocks.0.downsample.conv.weight"]


def test_positions_are_the_table_at_its_own_size_and_stretched_elsewhere() -> None:
    with torch.device("meta"):
        network = HybridViT()
    network.pos_embed = torch.nn.Parameter(torch.randn(1, 1 + POSITIONS**2, 768))
    with torch.no_grad():
        assert torch.equal(network.positions(POSITIONS, POSITIONS), network.pos_embed)
        wide = network.positions(2, 48)
    assert wide.shape == (1, 1 + 2 * 48, 768)
    table = network.pos_embed[:, 1:].detach().unflatten(1, (POSITIONS, POSITIONS)).permute(0, 3, 1, 2)
    stretched = F.interpolate(table, size=(2, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(wide[:, 1:], stretched.flatten(2).transpose(1, 2))
