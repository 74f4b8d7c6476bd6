import pytest
import torch

from annotator.uniformer.uniformer_s import GlobalBlock, LocalBlock, UniFormer


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (61, 71)])
def test_four_maps_at_powers_of_two(size: tuple[int, int]) -> None:
    with torch.inference_mode():
        maps = UniFormer().eval()(torch.rand(1, 3, *size))
    height, width = size
    expected = []
    for patch, channels in ((4, 64), (2, 128), (2, 320), (2, 512)):
        height, width = height // patch, width // patch  # pixels that fill no patch are left out
        expected.append((1, channels, height, width))
    assert [tuple(x.shape) for x in maps] == expected


def reach(block: torch.nn.Module, width: int) -> torch.Tensor:
    """Which pixels of an 11x11 map change when its centre does."""
    x = torch.rand(1, width, 11, 11, generator=torch.Generator().manual_seed(4))
    changed = x.clone()
    changed[..., 5, 5] += 1
    with torch.inference_mode():
        return (block.eval()(x) != block(changed)).any(1)[0]


def test_a_local_block_reaches_five_by_five_after_three_by_three() -> None:
    seen = reach(LocalBlock(64), 64)
    assert seen[2:9, 2:9].all()
    assert seen.sum() == 7 * 7


def test_a_global_block_reaches_every_pixel() -> None:
    assert reach(GlobalBlock(128), 128).all()
