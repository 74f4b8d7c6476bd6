"""A run in which the ControlNet learns nothing ends at its first step."""

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch

import tiny
from cldm.training import FirstStep
from cldm.training.first_step import check_reached, check_same, fingerprint
from training_runs import Record, run
from tutorial_train import train

YES, NO = torch.tensor(True), torch.tensor(False)


def test_gradients_that_are_there_do(settings):
    check_reached({"a": YES, "b": NO}, 2)


def test_a_missing_gradient_is_told():
    with pytest.raises(RuntimeError, match="1 of the ControlNet's 3 trained weights got no gradient in the first step"):
        check_reached({"a": YES, "b": NO}, 3)


def test_zeros_alone_are_told():
    with pytest.raises(RuntimeError, match="all gradients of the ControlNet were zero in the first step"):
        check_reached({"a": NO, "b": NO}, 2)


def test_processes_that_differ_are_told():
    check_same([1.5, 1.5])
    check_same([float("nan"), float("nan")])
    with pytest.raises(RuntimeError, match="the ControlNets of the 2 processes differ"):
        check_same([1.5, 1.25])


def test_a_fingerprint_tells_weights_apart():
    one, other = tiny.controlnet(), tiny.controlnet()
    assert fingerprint(one) == fingerprint(other)
    other.middle_block_out[0].bias.data[3] += 1e-3
    assert fingerprint(one) != fingerprint(other)


class Disconnect(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        pl_module.control_scales = [0.0] * len(pl_module.control_scales)


def test_a_run_that_would_learn_nothing_ends_at_its_first_step(settings):
    with pytest.raises(RuntimeError, match="all gradients of the ControlNet were zero"):
        train(settings, callbacks=[Disconnect()])


def test_weights_that_no_optimizer_has_are_told():
    model = tiny.control_ldm()
    model.trained_parameters()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.optimizers = [torch.optim.SGD([model.control_model.zero_convs[0][0].weight])]
    with pytest.raises(RuntimeError, match="weights of the ControlNet are in no optimizer"):
        FirstStep().on_train_start(trainer, model)


def test_with_the_middle_connection_alone_the_others_are_locked(settings):
    record = run(replace(settings, only_mid_control=True, max_steps=1), Record())
    assert record.gradients
    assert not [name for name in record.gradients if ".zero_convs." in name]
