import numpy as np
import torch

from annotator.uniformer import FILE, UniformerDetector
from annotator.uniformer.upernet import UNUSED, UniFormerUPerNet
from parity import assert_close, golden, published_names


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        ours = {name: (value.dtype, tuple(value.shape)) for name, value in UniFormerUPerNet().state_dict().items()}
    assert ours == {name: entry for name, entry in published_names(FILE).items() if not name.startswith(UNUSED)}


def test_logits_are_the_golden_ones(uniformer: UniformerDetector) -> None:
    arrays = golden("uniformer")
    with torch.inference_mode():
        logits = uniformer.network(torch.from_numpy(arrays["normalized_input"]))
    assert logits.shape == (1, 150, 256, 192)
    assert_close(logits.mean((2, 3)), arrays["logits_mean"], "mean")
    assert_close(logits.std((2, 3)), arrays["logits_std"], "standard deviation")
    assert_close(logits[..., ::16, ::16], arrays["logits_slice"], "slice")
    assert (logits.argmax(1).numpy() == arrays["argmax"]).mean() >= 0.999


def test_sides_that_are_no_multiples_are_taken(uniformer: UniformerDetector) -> None:
    with torch.inference_mode():
        assert uniformer.network(torch.zeros(1, 3, 45, 33)).shape == (1, 150, 45, 33)


def test_a_constant_input_gives_finite_logits(uniformer: UniformerDetector) -> None:
    with torch.inference_mode():
        assert np.isfinite(uniformer.network(torch.zeros(1, 3, 64, 64)).numpy()).all()
