"""Settings that save memory and time: the same training, and what they refuse."""

import copy
import sys
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

import tiny
from cldm.cldm import ControlLDM
from cldm.optimization.in_backward import InBackward
from cldm.training import Settings, changed, economise
from ldm.models.diffusion.draws import INDEX

SIDE = 64


def item(index: int) -> dict:
    generator = torch.Generator().manual_seed(index)
    pixels = torch.rand(SIDE, SIDE, 3, generator=generator)
    return {"jpg": pixels * 2 - 1, "hint": pixels.round(), "txt": "a circle", INDEX: index}


ITEMS = [item(index) for index in range(4)]
BATCH = next(iter(DataLoader(ITEMS, batch_size=2)))


@pytest.fixture(scope="module")
def fresh() -> ControlLDM:
    return tiny.control_ldm(cond_stage_config=tiny.CLIP)


def set_up(fresh: ControlLDM, settings: Settings) -> ControlLDM:
    model = copy.deepcopy(fresh).train()
    model.learning_rate = 1e-3
    economise(model, settings)
    return model


def loss_and_gradients(model: ControlLDM) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.trained_parameters()
    loss = model.training_step(BATCH, 0)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class Gradients(pl.Callback):
    """Keeps the first step's gradients of the ControlNet, as the optimizer got them."""

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        if trainer.global_step == 1 and not hasattr(self, "first"):
            self.first = {n: p.grad.clone() for n, p in pl_module.control_model.named_parameters()}


def fit(model: ControlLDM, settings: Settings, batch_size: int = 2, callbacks: list | None = None) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=2,
        max_epochs=-1,
        precision=settings.precision,
        accumulate_grad_batches=settings.accumulation,
        gradient_clip_val=settings.gradient_clip or None,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        logger=False,
    )
    trainer.fit(model, DataLoader(ITEMS, batch_size=batch_size))
    model.trainer = None  # which logs nothing after its end
    return trainer


def test_checkpointing_gives_the_same_gradients(fresh):
    loss, expected = loss_and_gradients(set_up(fresh, Settings()))
    model = set_up(fresh, Settings(gradient_checkpointing=True))
    again, gradients = loss_and_gradients(model)
    assert again == loss
    assert gradients.keys() == expected.keys()
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)


@pytest.mark.parametrize("recompute", [False, True])
def test_checkpointing_is_the_settings_not_the_yamls(fresh, recompute):
    fresh.recompute_activations(not recompute)
    model = set_up(fresh, Settings(gradient_checkpointing=recompute))
    said = {m.use_checkpoint for n in (model.control_model, model.model) for m in n.modules() if _says(m)}
    assert said == {recompute}


def _says(module: torch.nn.Module) -> bool:
    return hasattr(module, "use_checkpoint")


def test_two_batches_of_one_are_a_batch_of_two(fresh):
    added, at_once = Gradients(), Gradients()
    settings = Settings(accumulation=2)
    fit(set_up(fresh, settings), settings, batch_size=1, callbacks=[added])
    fit(set_up(fresh, Settings()), Settings(), batch_size=2, callbacks=[at_once])
    expected = torch.cat([g.flatten() for g in at_once.first.values()])
    difference = torch.cat([g.flatten() for g in added.first.values()]) - expected
    assert difference.norm() < 1e-5 * expected.norm()  # of all together: before a norm, biases have rounding alone


def test_gradients_are_clipped_to_their_norm(fresh):
    plain, clipped = Gradients(), Gradients()
    settings = Settings(gradient_clip=1e-3)
    fit(set_up(fresh, Settings()), Settings(), callbacks=[plain])
    fit(set_up(fresh, settings), settings, callbacks=[clipped])
    norms = [torch.stack([g.norm() for g in kept.first.values()]).norm().item() for kept in (plain, clipped)]
    assert norms[0] > 2e-3
    assert norms[1] == pytest.approx(1e-3, rel=1e-2)


def test_locked_in_bfloat16_losses_are_within_a_hundredth(fresh):
    loss, _ = loss_and_gradients(set_up(fresh, Settings()))
    model = set_up(fresh, Settings(locked_precision="bf16"))
    again, gradients = loss_and_gradients(model)
    assert float(again) == pytest.approx(float(loss), rel=1e-2)
    assert model.model.diffusion_model.dtype == torch.bfloat16
    assert {g.dtype for g in gradients.values()} == {torch.float32}
    assert {p.dtype for p in model.first_stage_model.parameters()} == {torch.float32}


def test_low_memory_trains_with_losses_within_a_hundredth(fresh):
    settings = Settings(low_memory=True)
    ordinary, model = set_up(fresh, Settings()), set_up(fresh, settings)
    fit(ordinary, Settings())
    trainer = fit(model, settings)
    assert isinstance(trainer.optimizers[0], InBackward)
    with torch.no_grad():
        expected, loss, before = (float(m.training_step(BATCH, 0)) for m in (ordinary, model, fresh))
    assert loss == pytest.approx(expected, rel=1e-2)
    assert abs(expected - before) > 0.02 * before, "training changed too little to compare"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_trains_and_samples_in_mixed_precision(fresh, dtype):
    model = set_up(fresh, Settings())
    with torch.autocast("cpu", dtype):
        loss, gradients = loss_and_gradients(model)
        images = model.log_images(BATCH, N=1, ddim_steps=2)
    exact, _ = loss_and_gradients(set_up(fresh, Settings()))
    assert float(loss) == pytest.approx(float(exact), rel=2e-2)
    assert float(loss) != float(exact), "nothing was computed in half precision"
    assert all(g.isfinite().all() for g in gradients.values())
    assert images["samples_cfg_scale_9.00"].isfinite().all()


@pytest.mark.slow
def test_compiled_networks_give_the_same_loss(fresh):
    loss, expected = loss_and_gradients(set_up(fresh, Settings()))
    again, gradients = loss_and_gradients(set_up(fresh, Settings(compile=True)))
    torch.testing.assert_close(again, loss)
    assert gradients.keys() == expected.keys()


def test_low_memory_leaves_what_is_chosen_and_what_it_excludes(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    settings = Settings(low_memory=True)
    assert (settings.optimization.optimizer, settings.optimization.in_backward) == ("adamw_bf16", True)
    assert settings.recomputes
    assert settings.locked_in_bf16
    assert not replace(settings, sd_locked=False).locked_in_bf16
    for other in ({"accumulation": 2}, {"gradient_clip": 1.0}, {"precision": "16-mixed"}):
        assert not replace(settings, **other).optimization.in_backward
    assert settings.optimization.in_backward_if_alone
    assert not replace(settings, optimizer_in_backward=True).optimization.in_backward_if_alone
    nothing = Settings()
    assert (nothing.recomputes, nothing.locked_in_bf16, nothing.optimization.in_backward) == (False, False, False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["locked_precision=fp8"], "locked_precision must be 32 or bf16, got 'fp8'"),
        (["locked_precision=bf16", "sd_locked=false"], "locked_precision=bf16 needs sd_locked=true"),
        (["accumulation=0"], "accumulation must be at least 1, got 0"),
        (["gradient_clip=-1"], "gradient_clip must be positive, or 0 for none, got -1"),
        (["optimizer=adam"], "optimizer must be one of adamw, adamw_bf16, adamw8bit, got 'adam'"),
        (["optimizer_in_backward=true", "accumulation=2"], "accumulation over 2 batches adds to gradients"),
        (["optimizer_in_backward=true", "gradient_clip=1"], "needs all gradients at once"),
        (["optimizer_in_backward=true", "precision=16-mixed"], "precision 16-mixed scales gradients"),
        (["schedule=cosine"], r"schedule=cosine needs max_steps, where it ends, above warmup_steps \(0\), got -1"),
        (["schedule=linear", "warmup_steps=9", "max_steps=9"], r"above warmup_steps \(9\), got 9"),
    ],
)
def test_a_wrong_setting_is_one_message(given, message):
    with pytest.raises(ValueError, match=message):
        changed(Settings(), given)
