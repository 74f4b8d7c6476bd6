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
from ldm.models.diffusion.ddpm import INDEX

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


def fit(model: ControlLDM, settings: Settings, batch_size: int) -> ControlLDM:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=2,
        max_epochs=-1,
        precision=settings.precision,
        accumulate_grad_batches=settings.accumulation,
        gradient_clip_val=settings.gradient_clip or None,
        enable_checkpointing=False,
        enable_progress_bar=False,
        logger=False,
    )
    trainer.fit(model, DataLoader(ITEMS, batch_size=batch_size))
    return model


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
    settings = Settings(accumulation=2)
    added = fit(set_up(fresh, settings), settings, batch_size=1)
    at_once = fit(set_up(fresh, Settings()), Settings(), batch_size=2)
    for (name, a), b in zip(added.control_model.named_parameters(), at_once.control_model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5, msg=name)  # a step is up to 1e-3, AdamW's of noise too


def test_gradients_are_clipped_to_their_norm(fresh):
    norms = []
    settings = Settings(gradient_clip=1e-3)
    model = set_up(fresh, settings)
    model.on_before_zero_grad = lambda _: norms.append(
        torch.stack([p.grad.norm() for p in model.control_model.parameters() if p.grad is not None]).norm().item()
    )
    fit(model, settings, batch_size=2)
    assert max(norms) <= 1.001e-3


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
    ordinary = fit(set_up(fresh, Settings()), Settings(), batch_size=2)
    model = fit(set_up(fresh, settings), settings, batch_size=2)
    assert isinstance(model.trainer.optimizers[0], InBackward)
    with torch.no_grad():
        expected, loss = ordinary.training_step(BATCH, 0), model.training_step(BATCH, 0)
        before = fresh.training_step(BATCH, 0)
    assert float(loss) == pytest.approx(float(expected), rel=1e-2)
    assert loss < before


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-true"])
def test_it_trains_and_samples_in_mixed_precision(fresh, precision):
    settings = Settings(precision="bf16-mixed" if precision == "bf16-mixed" else "32-true")
    model = set_up(fresh, settings)
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float16
    with torch.autocast("cpu", dtype):
        loss, gradients = loss_and_gradients(model)
        images = model.log_images(BATCH, N=1, ddim_steps=2)
    exact, _ = loss_and_gradients(set_up(fresh, Settings()))
    assert float(loss) == pytest.approx(float(exact), rel=2e-2)
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
