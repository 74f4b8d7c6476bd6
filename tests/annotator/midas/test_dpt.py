import copy
from typing import Any

import torch

from annotator.midas import FILE, MidasDetector
from annotator.midas.dpt import UNUSED, DPTHybrid
from parity import assert_close, golden, published_names, relative_error


def test_names_and_shapes_are_the_published_ones() -> None:
    published = published_names(FILE)
    with torch.device("meta"):
        ours = {name: (value.dtype, tuple(value.shape)) for name, value in DPTHybrid().state_dict().items()}
    assert ours == {name: entry for name, entry in published.items() if not name.startswith(UNUSED)}
    assert len(published) - len(ours) == 8


def test_inverse_depth_is_the_golden_one(midas: MidasDetector) -> None:
    arrays = golden("midas")
    x = torch.from_numpy(arrays["image"]).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        assert_close(midas.network(x), arrays["inverse_depth"], "inverse depth")


def test_network_is_that_of_controlnet_aux_on_the_same_weights(midas: MidasDetector, aux_midas: Any) -> None:
    ours, theirs = copy.deepcopy(midas.network).double(), aux_midas.model
    x = 2 * torch.rand(1, 3, 64, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 1
    try:
        with torch.inference_mode():
            assert relative_error(ours(x), theirs.double()(x)) < 1e-10
    finally:
        theirs.float()  # its hooks do not survive a copy, and other tests use it too


def test_a_batch_is_its_images_one_by_one(midas: MidasDetector) -> None:
    x = 2 * torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(2)) - 1
    with torch.inference_mode():
        together = midas.network(x)
        assert together.shape == (2, 32, 64)
        assert_close(together, torch.cat([midas.network(x[:1]), midas.network(x[1:])]))
