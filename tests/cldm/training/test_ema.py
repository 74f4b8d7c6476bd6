"""The average of the trained weights, against the recursion that defines it."""

import pytest
import torch

import runs
from cldm.training.ema import Ema, averaged_weights

NAME = "control_model.zero_convs.0.0.weight"


class Course(runs.pl.Callback):
    """Remembers a weight after every step."""

    def __init__(self):
        self.weights = []

    def on_train_start(self, trainer, pl_module):
        self.weights.append(pl_module.control_model.zero_convs[0][0].weight.detach().clone())

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.weights.append(pl_module.control_model.zero_convs[0][0].weight.detach().clone())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    model, ema, course = runs.control_ldm(), Ema(0.3), Course()
    trainer = runs.fit(model, runs.items(6), [ema, course], tmp_path_factory.mktemp("run"))
    return model, ema, course, trainer


def test_the_average_follows_its_recursion(run):
    _, ema, course, _ = run
    average = course.weights[0]
    for n, weight in enumerate(course.weights[1:], start=1):
        kept = min(0.3, (1 + n) / (10 + n))
        average = kept * average + (1 - kept) * weight
    assert ema.updates == 3
    torch.testing.assert_close(ema.averages[NAME], average)
    assert not torch.equal(average, course.weights[-1])


def test_only_what_is_trained_is_averaged(run):
    model, ema, *_ = run
    assert set(ema.averages) == {f"control_model.{name}" for name, _ in model.control_model.named_parameters()}


def test_inside_the_model_has_the_averages_and_afterwards_its_own_weights_to_the_bit(run):
    model, ema, _, trainer = run
    before = runs.control_weights(model)
    with averaged_weights(trainer, model):
        inside = runs.control_weights(model)
    assert runs.same({f"control_model.{name}": value for name, value in inside.items()}, ema.averages)
    assert runs.same(runs.control_weights(model), before)


def test_its_state_is_plain_and_goes_on_where_it_was(run, tmp_path):
    model, ema, *_ = run
    torch.save(ema.state_dict(), tmp_path / "state.pt")
    again = Ema(0.3)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for callback in (ema, again):
        callback.update(model)
    assert again.updates == ema.updates == 4
    assert runs.same(again.averages, ema.averages)


def test_a_resumed_run_goes_on_with_the_average(tmp_path):
    begun = Ema(0.3)
    runs.fit(runs.control_ldm(), runs.items(4), [begun], tmp_path, steps=2).save_checkpoint(tmp_path / "state.ckpt")
    resumed, course = Ema(0.3), Course()
    resume = {"steps": 3, "resume": tmp_path / "state.ckpt"}
    runs.fit(runs.control_ldm(), runs.items(4), [resumed, course], tmp_path, **resume)
    assert resumed.updates == 3
    kept = min(0.3, 4 / 13)
    torch.testing.assert_close(resumed.averages[NAME], kept * begun.averages[NAME] + (1 - kept) * course.weights[-1])


def test_other_weights_than_those_that_were_averaged_are_refused(tmp_path):
    ema, model = Ema(0.3), runs.control_ldm()
    ema.load_state_dict({"updates": 3, "averages": {NAME: torch.zeros(1)}})
    with pytest.raises(ValueError, match=r"the resumed averages are of 1 weights, but \d+ are trained now.*sd_locked"):
        runs.fit(model, runs.items(2), [ema], tmp_path, steps=1)


def test_with_accumulation_it_counts_steps_and_not_batches(tmp_path):
    ema = Ema(0.3)
    runs.fit(runs.control_ldm(), runs.items(4), [ema], tmp_path, steps=2, batch_size=1, accumulate_grad_batches=2)
    assert ema.updates == 2


@pytest.mark.parametrize("decay", [0, 1, -0.1])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=f"decay must be above 0 and below 1, got {decay}"):
        Ema(decay)
