"""LatentDiffusion: loss, scaling of latents, what is frozen, and what it refuses."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from ldm.models.diffusion.ddpm import MOMENTS, LatentDiffusion
from ldm.models.diffusion.draws import INDEX, Draws
from ldm.models.diffusion.prediction import velocity

UNET = {
    "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
    "params": {"out_channels": 4, **tiny.encoder_params("15")},
}


def latent_diffusion(**changes: Any) -> LatentDiffusion:
    torch.manual_seed(0)
    params = {
        "unet_config": UNET,
        "first_stage_config": tiny.AUTOENCODER,
        "cond_stage_config": tiny.CLIP,
        "linear_start": 0.00085,
        "linear_end": 0.0120,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "scale_factor": 0.25,
    }
    return LatentDiffusion(**{**params, **changes})


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    return latent_diffusion()


def latents(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def condition(count: int = 2) -> dict[str, list[Tensor]]:
    return {"c_crossattn": [torch.zeros(count, 7, 48)]}


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_loss_of_a_network_that_says_zero_is_the_targets_mean_square(parameterization):
    model = latent_diffusion(parameterization=parameterization)  # a fresh U-Net says zero
    z, noise, t = latents(), latents(seed=1), torch.tensor([10, 700])
    loss = model.p_losses(z, condition(), t, noise)
    abar = model.alphas_cumprod[t].view(2, 1, 1, 1)
    target = noise if parameterization == "eps" else velocity(z, noise, abar)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(target.square().mean().item(), rel=1e-5)


def test_loss_sees_the_noisy_latent_at_its_time_step(model, monkeypatch):
    seen = {}
    monkeypatch.setattr(model, "apply_model", lambda x, t, cond: seen.update(x=x, t=t) or x)
    z, noise, t = latents(), latents(seed=1), torch.tensor([10, 700])
    model.p_losses(z, condition(), t, noise)
    for k in range(2):
        abar = model.alphas_cumprod[t[k]]
        torch.testing.assert_close(seen["x"][k], abar.sqrt() * z[k] + (1 - abar).sqrt() * noise[k])
    assert torch.equal(seen["t"], t)


def test_noise_and_time_steps_are_drawn_where_they_are_not_given(model, monkeypatch):
    seen = []
    monkeypatch.setattr(model, "p_losses", lambda z, cond, t: seen.append(t) or z.mean())
    torch.manual_seed(0)
    model(latents(20_000), condition())
    t = seen[0]
    assert (t.min().item(), t.max().item()) == (0, 999)
    assert t.float().mean().item() == pytest.approx(499.5, abs=10)
    monkeypatch.undo()
    model.train()
    first, second = (model.p_losses(latents(), condition(), torch.tensor([10, 700])).item() for _ in range(2))
    assert first != second
    assert first == pytest.approx(1, abs=0.3)


def test_training_step_gives_the_loss_with_gradients_for_the_unet_alone(model, monkeypatch):
    logged = {}
    monkeypatch.setattr(model, "log", lambda name, value, **_: logged.update({name: value}))
    batch = {"jpg": torch.rand(2, 64, 64, 3) * 2 - 1, "txt": ["a red circle", "a blue star"]}
    model.zero_grad()
    loss = model.training_step(batch, 0)
    loss.backward()
    assert loss.item() == pytest.approx(1, abs=0.3)
    assert logged == {"train/loss_simple": loss}
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained
    assert all(name.startswith("model.diffusion_model.") for name in trained)


def test_optimizer_has_the_unet_alone_and_the_learning_rate_that_was_set(model):
    assert model.learning_rate == 1e-5
    model.learning_rate = 3e-4
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert group["lr"] == 3e-4
    assert {id(p) for p in group["params"]} == {id(p) for p in model.model.parameters()}


def test_autoencoder_and_text_encoder_stay_frozen_and_in_evaluation(model):
    assert model.train() is model
    assert model.training
    assert model.model.diffusion_model.training
    for stage in (model.first_stage_model, model.cond_stage_model):
        assert not any(part.training for part in stage.modules())
        assert not any(p.requires_grad for p in stage.parameters())
    assert not model.eval().model.diffusion_model.training


@torch.no_grad()
def test_latents_are_the_autoencoders_times_the_scale(model):
    assert torch.equal(model.get_first_stage_encoding(latents()), 0.25 * latents())
    decoded = model.first_stage_model.decode(latents())
    torch.testing.assert_close(model.decode_first_stage(0.25 * latents()), decoded)
    posterior = model.encode_first_stage(torch.zeros(1, 3, 64, 64))
    torch.manual_seed(4)
    scaled = model.get_first_stage_encoding(posterior)
    torch.manual_seed(4)
    torch.testing.assert_close(scaled, 0.25 * posterior.sample())


@torch.no_grad()
def test_a_batch_becomes_latents_and_tokens(model):
    pixels = torch.rand(2, 64, 96, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.manual_seed(4)
    z, cond = model.get_input({"jpg": pixels, "txt": ["a red circle", ""]})
    torch.manual_seed(4)
    expected = 0.25 * model.first_stage_model.encode(pixels.permute(0, 3, 1, 2)).sample()
    torch.testing.assert_close(z, expected)
    assert z.shape == (2, 4, 8, 12)
    (tokens,) = cond["c_crossattn"]
    torch.testing.assert_close(tokens, model.cond_stage_model(["a red circle", ""]))
    assert torch.equal(tokens, model.get_learned_conditioning(["a red circle", ""]))
    assert tokens.shape == (2, 77, 48)


@torch.no_grad()
def test_several_sets_of_tokens_are_put_one_after_the_other(model, monkeypatch):
    seen = []
    monkeypatch.setattr(model.model.diffusion_model, "forward", lambda x, t, context: seen.append(context) or x)
    first, second = torch.zeros(2, 7, 48), torch.ones(2, 5, 48)
    model.apply_model(latents(), torch.tensor([1, 2]), {"c_crossattn": [first, second]})
    assert torch.equal(seen[0], torch.cat([first, second], dim=1))


def test_noising_has_the_marginals_of_the_schedule(model):
    t = torch.tensor([0, 999])
    z = torch.full((2, 4, 100, 100), 3.0)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    x, abar = model.q_sample(z, t, noise), model.alphas_cumprod[t]
    assert x.mean(dim=(1, 2, 3)).tolist() == pytest.approx((3 * abar.sqrt()).tolist(), abs=0.02)
    assert x.std(dim=(1, 2, 3)).tolist() == pytest.approx((1 - abar).sqrt().tolist(), rel=0.02)


def test_schedule_is_in_the_state_dict_under_published_names(model):
    buffers = {name for name in model.state_dict() if "." not in name}
    assert {"betas", "alphas_cumprod", "logvar", "posterior_mean_coef1"} < buffers
    assert len(buffers) == 13
    assert model.num_timesteps == len(model.betas) == 1000


def test_keys_of_published_configs_are_accepted():
    published = {
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "monitor": "val/loss_simple_ema",
        "use_ema": False,
        "loss_type": "l2",
        "ckpt_path": None,
        "scheduler_config": {"target": "x"},
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
    }
    model = latent_diffusion(image_size=32, channels=4, timesteps=10, **published)
    assert (model.image_size, model.channels, model.num_timesteps, len(model.betas)) == (32, 4, 10, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameterization": "x0"}, r"parameterization must be one of \('eps', 'v'\), got 'x0'"),
        ({"conditioning_key": "concat"}, r"expected conditioning_key: crossattn .* got 'concat' and False"),
        ({"cond_stage_trainable": True}, r"cond_stage_trainable: false, got 'crossattn' and True"),
        ({"beta_schedule": "cosine"}, "beta_schedule must be linear or sqrt_linear, got 'cosine'"),
        ({"unet_config": {"params": {}}}, "expected a config with the key 'target'"),
    ],
)
def test_what_there_is_not_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        latent_diffusion(**changes)


@pytest.mark.parametrize(
    ("key", "value", "instead"),
    [
        ("ckpt_path", "models/a.ckpt", "give the file to cldm.model.load_model"),
        ("ucg_training", {"txt": {"p": 0.5, "val": ""}}, "train with prompt_dropout="),
        ("loss_type", "l1", "the loss is the squared error"),
        ("use_ema", True, "train with ema_decay="),
    ],
)
def test_keys_that_ask_for_something_are_told_what_does_it(key, value, instead):
    with pytest.warns(UserWarning, match=f"{key}: .* in the yaml has no effect: {instead}"):
        latent_diffusion(**{key: value})


@pytest.mark.parametrize(
    ("name", "meant"),
    [("parametrization", "parameterization"), ("linear_stat", "linear_start"), ("chanels", "channels")],
)
def test_misspelt_keys_are_errors(name, meant):
    with pytest.raises(ValueError, match=f"the model has no parameter {name}; is {meant} meant"):
        latent_diffusion(**{name: 1})


def test_a_subclass_may_have_a_key_of_its_own_and_hand_it_on():
    class Own(LatentDiffusion):
        def __init__(self, *, monitor="val/x", **others):
            super().__init__(monitor=monitor, **others)

    made = latent_diffusion()
    made.__class__ = Own
    made._look_at({"monitor": "val/x"})
    with pytest.raises(ValueError, match="is monitor meant"):
        made._look_at({"monitors": "val/x"})


def test_noise_is_drawn_where_none_is_given(model):
    z, t = torch.zeros(1, 4, 8, 8), torch.tensor([500])
    torch.manual_seed(0)
    noise = torch.randn_like(z)
    torch.manual_seed(0)
    assert torch.equal(model.q_sample(z, t), model.q_sample(z, t, noise))


def steps(model, monkeypatch, indices: list[int], epoch: int = 0) -> list[dict[str, Any]]:
    """What a step over some samples of a dataset trains each of them on."""
    seen: dict[str, Any] = {}

    def p_losses(z, cond, t, noise):
        seen.update(z=z, tokens=cond["c_crossattn"][0], t=t, noise=noise)
        return z.mean()

    monkeypatch.setattr(model, "p_losses", p_losses)
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    monkeypatch.setattr(type(model), "current_epoch", epoch)
    images = torch.rand(8, 64, 64, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = {"jpg": images[indices], "txt": [f"prompt {index}" for index in indices], INDEX: torch.tensor(indices)}
    model.training_step(batch, 0)
    return [{name: value[k] for name, value in seen.items()} for k in range(len(indices))]


def test_with_an_index_a_samples_step_does_not_depend_on_batch_or_process(model, monkeypatch):
    monkeypatch.setattr(model, "prompt_dropout", 0.5)
    together = steps(model, monkeypatch, [3, 0, 5])
    torch.manual_seed(99)
    alone = [steps(model, monkeypatch, [index])[0] for index in (3, 0, 5)]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    (later,) = steps(model, monkeypatch, [3], epoch=1)
    assert not torch.equal(later["noise"], alone[0]["noise"])


def test_the_share_of_dropped_prompts_is_logged_and_is_what_is_dropped(model, monkeypatch):
    logged = {}
    monkeypatch.setattr(model, "prompt_dropout", 0.5)
    empty = model.get_learned_conditioning([""])[0]
    samples = steps(model, monkeypatch, list(range(8)))
    dropped = sum(torch.allclose(sample["tokens"], empty, atol=1e-5) for sample in samples)
    monkeypatch.setattr(model, "log", lambda name, value, **_: logged.update({name: float(value)}))
    batch = {"jpg": torch.zeros(8, 64, 64, 3), "txt": ["a"] * 8, INDEX: torch.arange(8)}
    model.training_step(batch, 0)
    assert 0 < dropped < 8
    assert logged["train/prompts_dropped"] == dropped / 8


def test_without_an_index_a_step_draws_from_torchs_generator(model, monkeypatch):
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    batch = {"jpg": torch.zeros(2, 64, 64, 3), "txt": ["a red circle", "a blue star"]}
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model.training_step(batch, 0).item())
    assert losses[0] == losses[1] != losses[2]


@torch.no_grad()
def test_cached_moments_stand_in_for_images(model):
    pixels = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    posterior = model.posterior_of({"jpg": pixels})
    again = model.posterior_of({MOMENTS: torch.cat([posterior.mean, posterior.logvar], dim=1)})
    assert torch.equal(again.mean, posterior.mean)
    assert torch.equal(again.logvar, posterior.logvar)


@torch.no_grad()
@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_with_min_snr_each_samples_error_has_its_time_steps_weight(parameterization, monkeypatch):
    model = latent_diffusion(parameterization=parameterization)
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 3, 4, 8, 8, generator=generator)
    t, cond = torch.tensor([1, 400, 990]), {"c_crossattn": [torch.randn(3, 7, 48, generator=generator)]}
    errors = model.errors(z, cond, t, noise)
    torch.testing.assert_close(model.p_losses(z, cond, t, noise), errors.mean())
    monkeypatch.setattr(model, "min_snr_gamma", 5.0)
    snr = model.alphas_cumprod[t] / (1 - model.alphas_cumprod[t])
    weights = snr.clamp(max=5) / (snr if parameterization == "eps" else snr + 1)
    torch.testing.assert_close(model.p_losses(z, cond, t, noise), (weights * errors).mean())


def test_a_noise_offset_reaches_the_samples_noise(model, monkeypatch):
    (plain,) = steps(model, monkeypatch, [3])
    monkeypatch.setattr(model, "noise_offset", 0.5)
    (moved,) = steps(model, monkeypatch, [3])
    torch.testing.assert_close(moved["noise"], Draws(0, 0, [3]).noise(plain["z"][None], 0.5)[0])
    assert not torch.equal(moved["noise"], plain["noise"])
