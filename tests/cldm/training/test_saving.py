"""The saved ControlNet."""

import pytest
import torch

import tiny
from cldm.training import SaveControl
from cldm.weights.reading import read_weights


class Trainer:
    is_global_zero = True

    def __init__(self, step: int):
        self.global_step = step


@pytest.mark.parametrize("sd_locked", [True, False])
def test_what_was_trained_is_saved(tmp_path, sd_locked):
    model = tiny.control_ldm()
    model.sd_locked = sd_locked
    trained = {id(p) for p in model.trained_parameters()}
    callback = SaveControl(tmp_path, every=10)
    callback.on_train_batch_end(Trainer(9), model, None, None, 0)
    assert not list(tmp_path.iterdir())
    callback.on_train_batch_end(Trainer(10), model, None, None, 0)
    callback.on_train_end(Trainer(10), model)
    saved = read_weights(tmp_path / "control_000010.safetensors")
    expected = {name: p for name, p in model.named_parameters() if id(p) in trained}
    assert set(saved) == set(expected)
    assert all(torch.equal(saved[name], expected[name]) for name in expected)
