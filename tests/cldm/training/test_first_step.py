"""A run in which the ControlNet learns nothing ends at its first step."""

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch

import tiny
from cldm.training import FirstStep, StateError
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
    check_same([3, 3])
    with pytest.raises(RuntimeError, match="the ControlNets of the 2 processes differ"):
        check_same([3, 4])


def test_a_fingerprint_tells_weights_apart():
    one, other = tiny.controlnet(), tiny.controlnet()
    assert fingerprint(one) == fingerprint(other)
    other.middle_block_out[0].bias.data[3] += 1e-3
    assert fingerprint(one) != fingerprint(other)


def test_a_fingerprint_is_exact_whatever_the_number_of_threads():
    large = torch.nn.Linear(1000, 1000)
    large.weight.data *= 10 ** torch.linspace(-12, 0, 1000)  # sums of less unlike numbers are exact in double precision
    before, figures = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        figures.append(fingerprint(large))
    torch.set_num_threads(before)
    check_same(figures)
    large.weight.data[5, 7] = torch.nextafter(large.weight.data[5, 7], torch.tensor(9.0))
    assert fingerprint(large) != figures[0]


def test_in_a_fingerprint_one_nan_is_as_the_other():
    one, other = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(2, 1, bias=False)
    one.weight.data = torch.tensor([0x7FC00000, 1], dtype=torch.int32).view(torch.float32)
    other.weight.data = torch.tensor([-0x400000, 1], dtype=torch.int32).view(torch.float32)
    assert other.weight.isnan().tolist() == [True, False]
    assert fingerprint(one) == fingerprint(other)


def test_processes_that_begin_at_different_steps_are_told(settings, monkeypatch):
    monkeypatch.setattr("cldm.training.first_step.of_all_processes", lambda own: [own, own + 500])
    with pytest.raises(StateError, match=r"different steps \(0, 500\).*output must be one folder that all machines"):
        train(settings)


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
