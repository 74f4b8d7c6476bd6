"""Steps without a finite loss or gradient: skipped to the bit, reported by sample, and at last the end."""

import warnings

import numpy as np
import pytest
import torch
from torch.multiprocessing import ProcessRaisedException

import runs
from cldm.cldm import ControlLDM
from cldm.optimization import Optimization
from cldm.training.ema import Ema
from cldm.training.guard import NotANumberGuard
from ldm.models.diffusion.draws import INDEX


def poisoned(count: int, *places: int) -> list[dict]:
    """Samples of which some are no numbers."""
    samples = runs.items(count)
    for place in places:
        samples[place]["hint"] = np.full_like(samples[place]["hint"], np.nan)
    return samples


class Moments(runs.pl.Callback):
    """Remembers all that a step changes, after each."""

    def __init__(self, ema: Ema):
        self.ema = ema
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        (optimizer,) = trainer.optimizers
        state = {f"{i} {name}": v.clone() for i, s in enumerate(optimizer.state.values()) for name, v in s.items()}
        averages = {f"ema {name}": value.clone() for name, value in self.ema.averages.items()}
        self.seen.append({**runs.control_weights(pl_module), **state, **averages})


def test_a_poisoned_step_changes_neither_weights_nor_optimizer_nor_average(tmp_path):
    guard, ema = NotANumberGuard(), Ema(0.9)
    moments = Moments(ema)
    with pytest.warns(UserWarning, match=r"step 2 is skipped: its loss is no number.* samples 2, 3; 1 of 20 in a row"):
        runs.fit(runs.control_ldm(), poisoned(6, 3), [guard, ema, moments], tmp_path, steps=3)
    first, second, third = moments.seen
    assert runs.same(first, second)
    assert not runs.same(second, third)
    assert ema.updates == 2
    assert guard.in_a_row == 0


def test_without_the_guard_it_would_have_ruined_them(tmp_path):
    model = runs.control_ldm()
    runs.fit(model, poisoned(4, 3), [], tmp_path, steps=2)
    assert any(not tensor.isfinite().all() for tensor in runs.control_weights(model).values())


def test_a_healthy_run_is_the_same_with_and_without_it_and_without_warnings(tmp_path):
    plain, guarded = runs.control_ldm(), runs.control_ldm()
    runs.fit(plain, runs.items(4), [], tmp_path, steps=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*is skipped.*")
        runs.fit(guarded, runs.items(4), [NotANumberGuard()], tmp_path, steps=2)
    assert runs.same(runs.control_weights(plain), runs.control_weights(guarded))


def test_after_so_many_in_a_row_training_stops_and_names_the_samples(tmp_path):
    model = runs.control_ldm()
    with pytest.raises(FloatingPointError) as stopped, pytest.warns(UserWarning, match="2 of 2 in a row"):
        runs.fit(model, poisoned(8, 2, 5), [NotANumberGuard(patience=2)], tmp_path, steps=4)
    message = str(stopped.value)
    assert message.startswith("the loss was no number in 2 steps in a row, so training stops")
    assert "Samples in them, counted from 0 in the dataset: 2, 3, 4, 5." in message
    for advice in ("tutorial_dataset.py", "bf16-mixed", "learning_rate"):
        assert advice in message
    assert all(tensor.isfinite().all() for tensor in runs.control_weights(model).values())


def test_a_good_step_between_begins_the_count_anew(tmp_path):
    with pytest.warns(UserWarning, match="1 of 2 in a row"):
        trainer = runs.fit(runs.control_ldm(), poisoned(6, 0, 4), [NotANumberGuard(patience=2)], tmp_path, steps=3)
    assert trainer.global_step == 3


def test_a_gradient_alone_is_enough(tmp_path):
    class Overflow(runs.pl.Callback):
        def on_after_backward(self, trainer, pl_module):
            pl_module.control_model.zero_convs[0][0].bias.grad[0] = float("inf")

    model = runs.control_ldm()
    before = runs.control_weights(model)
    with pytest.warns(UserWarning, match=r"its gradient is no number.* samples 0, 1;"):
        runs.fit(model, runs.items(2), [Overflow(), NotANumberGuard()], tmp_path, steps=1)
    assert runs.same(runs.control_weights(model), before)


def test_with_accumulation_one_bad_batch_skips_the_whole_step(tmp_path):
    model = runs.control_ldm()
    before = runs.control_weights(model)
    with pytest.warns(UserWarning, match=r"samples 0, 1; 1 of 20"):
        runs.fit(model, poisoned(2, 0), [NotANumberGuard()], tmp_path, steps=1, batch_size=1, accumulate_grad_batches=2)
    assert runs.same(runs.control_weights(model), before)


def in_backward() -> ControlLDM:
    model = runs.control_ldm()
    model.optimization = Optimization(in_backward=True)
    return model


def test_an_optimizer_in_the_backward_pass_is_held_at_a_poisoned_step(tmp_path):
    guard, ema = NotANumberGuard(), Ema(0.9)
    moments = Moments(ema)
    with pytest.warns(UserWarning, match=r"step 2 is skipped: its loss is no number.* samples 2, 3; 1 of 20 in a row"):
        runs.fit(in_backward(), poisoned(6, 3), [guard, ema, moments], tmp_path, steps=3)
    first, second, third = moments.seen
    assert runs.same(first, second)
    assert not runs.same(second, third)
    assert guard.in_a_row == 0


def test_a_gradient_that_was_stepped_already_ends_the_training_at_once(tmp_path):
    class Overflow(runs.pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, *_):
            pl_module.control_model.zero_convs[0][0].bias.register_hook(lambda gradient: gradient * float("inf"))

    with pytest.raises(FloatingPointError, match=r"a gradient of step 1 was no number, though its loss was, and with"):
        runs.fit(in_backward(), runs.items(2), [Overflow(), NotANumberGuard()], tmp_path, steps=1)


def test_batches_without_an_index_are_skipped_too(tmp_path):
    samples = [{name: value for name, value in sample.items() if name != INDEX} for sample in poisoned(2, 0)]
    with pytest.warns(UserWarning, match="samples without an index"):
        runs.fit(runs.control_ldm(), samples, [NotANumberGuard()], tmp_path, steps=1)


@pytest.mark.slow
def test_two_processes_skip_together_where_one_of_them_meets_the_sample(tmp_path):
    guard = NotANumberGuard(patience=2)
    several = {"devices": 2, "strategy": "ddp_spawn", "batch_size": 1}
    with pytest.raises(ProcessRaisedException, match=r"FloatingPointError: .* in 2 steps in a row") as stopped:
        runs.fit(runs.control_ldm(), poisoned(8, 3, 5), [guard, runs.Keep(tmp_path)], tmp_path, steps=4, **several)
    assert "Samples in them, counted from 0 in the dataset: 3, 5." in str(stopped.value)
    first, second = ([torch.load(tmp_path / f"{rank}_{step}.pt") for rank in (0, 1)] for step in (1, 2))
    for weights in (*first, *second):
        assert runs.same(weights, first[0])
        assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_patience_below_one_is_refused():
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        NotANumberGuard(0)
