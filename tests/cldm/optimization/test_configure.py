"""What settings make of optimizers and schedules, what they exclude, and that checkpoints hold all of it."""

import importlib.machinery
import sys
import types

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from cldm.optimization import Optimization, configure
from cldm.optimization.adamw_bf16 import AdamWBF16
from cldm.optimization.in_backward import InBackward

STEPS = 4


class Module(pl.LightningModule):
    """A small network, trained by `optimization`."""

    def __init__(self, optimization: Optimization):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 2))
        self.optimization = optimization

    def training_step(self, batch, batch_idx):
        return self.network(batch).square().mean()

    def configure_optimizers(self):
        return configure(list(self.parameters()), 1e-2, self.optimization, self._trainer)


def fit(module: Module, steps: int = STEPS, resume: str | None = None, **options) -> pl.Trainer:
    quiet = {"enable_checkpointing": False, "logger": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", max_steps=steps, max_epochs=-1, **quiet, **options)
    batch = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    trainer.fit(module, DataLoader([batch] * 2, batch_size=None), ckpt_path=resume, weights_only=True)
    return trainer


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3))]


def test_by_default_it_is_adamw_at_a_constant_rate():
    optimizer = configure(parameters(), 1e-5, Optimization())
    assert type(optimizer) is torch.optim.AdamW
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"], group["eps"]) == (1e-5, (0.9, 0.999), 0.01, 1e-8)
    assert group["fused"]


def test_settings_reach_the_optimizer():
    optimizer = configure(parameters(), 1e-5, Optimization("adamw_bf16", 0.8, 0.99, 0.1, seed=3))
    assert isinstance(optimizer, AdamWBF16)
    (group,) = optimizer.param_groups
    assert (group["betas"], group["weight_decay"], group["seed"]) == ((0.8, 0.99), 0.1, 3)


@pytest.mark.parametrize("name", ["adamw", "adamw_bf16"])
@pytest.mark.parametrize("in_backward", [False, True])
def test_a_run_from_a_checkpoint_ends_at_the_same_bytes(name, in_backward, tmp_path):
    optimization = Optimization(name, in_backward=in_backward, schedule="cosine", warmup_steps=1)
    whole = Module(optimization)
    fit(whole)
    first = Module(optimization)

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == STEPS // 2:
                trainer.save_checkpoint(tmp_path / "half.ckpt")
                trainer.should_stop = True

    fit(first, callbacks=[Save()], min_steps=1)
    assert not same(first, whole)
    resumed = Module(optimization)
    fit(resumed, resume=str(tmp_path / "half.ckpt"))
    assert same(resumed, whole)


def test_the_rate_of_each_step_is_the_schedules():
    module = Module(Optimization(schedule="linear", warmup_steps=1))
    rates = []

    class Look(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    fit(module, callbacks=[Look()])
    assert rates == pytest.approx([1e-2, 1e-2, 1e-2 * 2 / 3, 1e-2 / 3])


def test_in_the_backward_pass_lightning_trains_to_the_same_weights():
    ordinary, wrapped = Module(Optimization()), Module(Optimization(in_backward=True))
    fit(ordinary)
    trainer = fit(wrapped)
    assert isinstance(trainer.optimizers[0], InBackward)
    assert trainer.global_step == STEPS
    assert same(ordinary, wrapped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate_grad_batches": 2}, "accumulation over 2 batches"),
        ({"gradient_clip_val": 1.0}, r"gradient clipping \(1.0\) needs all gradients"),
    ],
)
def test_what_a_trainer_does_between_backward_pass_and_step_is_refused(options, message):
    with pytest.raises(ValueError, match=f"optimizer_in_backward must be false here: {message}"):
        fit(Module(Optimization(in_backward=True)), **options)


def stub(**changes) -> types.SimpleNamespace:
    facts = {"accumulate_grad_batches": 1, "gradient_clip_val": None, "precision": "32-true", "world_size": 1}
    return types.SimpleNamespace(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"world_size": 2}, "2 processes average"), ({"precision": "16-mixed"}, "precision 16-mixed scales")],
)
def test_processes_and_scaled_gradients_are_refused_too(changes, message):
    with pytest.raises(ValueError, match=message):
        configure(parameters(), 1e-5, Optimization(in_backward=True), stub(**changes))


def test_processes_make_it_an_ordinary_optimizer_where_it_was_only_a_wish():
    wish = Optimization(in_backward=True, in_backward_if_alone=True)
    assert isinstance(configure(parameters(), 1e-5, wish, stub()), InBackward)
    assert isinstance(configure(parameters(), 1e-5, wish, stub(world_size=2)), torch.optim.AdamW)


def test_scaled_gradients_that_are_clipped_are_not_stepped_in_one_kernel():
    trainer = stub(precision="16-mixed", gradient_clip_val=1.0)
    assert not configure(parameters(), 1e-5, Optimization(), trainer).param_groups[0]["fused"]


def test_a_schedule_without_an_end_is_refused():
    with pytest.raises(ValueError, match="schedule=cosine needs a number of steps to end at: set max_steps"):
        configure(parameters(), 1e-5, Optimization(schedule="cosine"))


def test_eight_bits_are_bitsandbytes(monkeypatch):
    package, optim = types.ModuleType("bitsandbytes"), types.ModuleType("bitsandbytes.optim")
    package.__spec__ = importlib.machinery.ModuleSpec("bitsandbytes", None)
    optim.AdamW8bit = type("AdamW8bit", (torch.optim.AdamW,), {})
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", optim)
    assert isinstance(configure(parameters(), 1e-5, Optimization("adamw8bit")), optim.AdamW8bit)


def test_without_bitsandbytes_a_message_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r"pip install bitsandbytes, or take optimizer=adamw_bf16"):
        Optimization("adamw8bit")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, adamw_bf16, adamw8bit, got 'sgd'"),
        ({"schedule": "step"}, "schedule must be one of constant, cosine, linear, got 'step'"),
        ({"beta1": 1.0}, "beta1 must be at least 0 and below 1, got 1.0"),
        ({"beta2": -0.1}, "beta2 must be at least 0 and below 1, got -0.1"),
        ({"weight_decay": -1}, "weight_decay must be 0 or more, got -1"),
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more, got -1"),
    ],
)
def test_a_wrong_setting_is_one_message(changes, message):
    with pytest.raises(ValueError, match=message):
        Optimization(**changes)
