"""ControlNet, ControlledUnetModel and ControlLDM against golden outputs, published names and diffusers."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

import tiny
from cldm.cldm import ControlLDM
from cldm.ddim_hacked import DDIMSampler
from ldm.util import instantiate_from_config
from parity import assert_close, fill, golden, published_names


def tensors(name: str) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in golden(name).items() if v.dtype.kind in "fi" and v.ndim}


@pytest.mark.parametrize("version", ["15", "21"])
def test_tiny_pair_gives_the_golden_outputs(version):
    g = tensors(f"tiny{version}_unet_controlnet")
    unet, control_net = tiny.unet(version), tiny.controlnet(version)
    with torch.no_grad():
        control = control_net(g["x"], g["hint"], g["t"], g["ctx"])
        for i, c in enumerate(control):
            assert_close(c, g[f"control_{i:02d}"], f"control {i}")
        assert_close(unet(g["x"], g["t"], g["ctx"]), g["out_no_control"])
        assert_close(unet(g["x"], g["t"], g["ctx"], control), g["out_control"])
        assert_close(unet(g["x"], g["t"], g["ctx"], control, only_mid_control=True), g["out_only_mid"])


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_reach_the_controlnet_alone_and_are_the_golden_ones(recompute):
    g = golden("tiny15_gradients")
    model = tiny.control_ldm()
    model.sd_locked = True
    model.trained_parameters()
    for module in model.modules():
        if hasattr(module, "use_checkpoint"):
            module.use_checkpoint = recompute
    z, noise, t, ctx, hint = (torch.from_numpy(g[k]) for k in ("x0", "noise", "t", "ctx", "hint"))
    loss = model.p_losses(z, {"c_crossattn": [ctx], "c_concat": [hint]}, t, noise)
    loss.backward()
    assert loss.item() == pytest.approx(float(g["loss"]), rel=1e-5)
    gradients = {n: p.grad for n, p in model.control_model.named_parameters()}
    norms = np.array([gradients[name.removeprefix("control_model.")].norm().item() for name in g["names"]])
    assert_close(norms, g["grad_norms"], "gradient norms")
    assert_close(gradients["zero_convs.0.0.weight"], g["grad_zero_conv_0"])
    locked = [n for n, p in model.named_parameters() if p.grad is not None and not n.startswith("control_model.")]
    assert locked == []


def test_unlocked_training_adds_the_decoder_and_nothing_else():
    model = tiny.control_ldm()
    model.sd_locked = False
    model.trained_parameters()
    trained = {n for n, p in model.named_parameters() if p.requires_grad and not n.startswith("control_model.")}
    decoder = ("model.diffusion_model.output_blocks.", "model.diffusion_model.out.")
    assert trained == {n for n, _ in model.named_parameters() if n.startswith(decoder)}


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_ldm_schedule_loss_and_sampling_are_the_golden_ones(parameterization):
    g = tensors(f"tiny15_ldm_{parameterization}")
    model = tiny.control_ldm(parameterization)
    assert_close(model.betas, g["betas"])
    assert_close(model.alphas_cumprod, g["alphas_cumprod"])
    assert_close(model.q_sample(g["x0"], g["t"], g["noise"]), g["x_noisy"])
    cond = {"c_crossattn": [g["ctx"]], "c_concat": [g["hint"]]}
    uncond = {"c_crossattn": [g["uctx"]], "c_concat": [g["hint"]]}
    with torch.no_grad():
        assert_close(model.apply_model(g["x_noisy"], g["t"], cond), g["model_out"])
        loss = model.p_losses(g["x0"], cond, g["t"], g["noise"])
    assert_close(loss[None], golden(f"tiny15_ldm_{parameterization}")["loss"][None])
    sampling = {"verbose": False, "x_T": g["xT"], "unconditional_guidance_scale": 7.5}
    size = (len(g["xT"]), g["xT"].shape[1:])
    samples, _ = DDIMSampler(model).sample(5, *size, cond, unconditional_conditioning=uncond, **sampling)
    assert_close(samples, g["ddim"])
    guess = {**cond, "control_scales": [0.825 ** (4 - i) for i in range(5)]}
    samples, _ = DDIMSampler(model).sample(
        5, *size, guess, unconditional_conditioning={**uncond, "c_concat": None}, **sampling
    )
    assert_close(samples, g["ddim_guess"])


class OwnApplication(ControlLDM):
    """As users' subclasses, which know conditions as they are made, and no latents that stand for several."""

    def apply_model(self, x_noisy, t, cond, *args, **kwargs):
        text, hint = torch.cat(cond["c_crossattn"], 1), torch.cat(cond["c_concat"], 1)
        assert len(x_noisy) == len(text) == len(hint)
        control = self.control_model(x=x_noisy, hint=hint, timesteps=t, context=text)
        return self.model.diffusion_model(x_noisy, t, text, control)


@pytest.mark.parametrize(("kind", "rows"), [(ControlLDM, 2), (OwnApplication, 4)])
def test_hint_is_encoded_once_per_generation_and_guidance_takes_one_pass(kind, rows):
    g = tensors("tiny15_ldm_eps")
    model = tiny.control_ldm()
    model.__class__ = kind
    calls = {"hint": 0, "unet": []}
    encode = model.control_model.encode_hint
    model.control_model.encode_hint = lambda hint: calls.update(hint=calls["hint"] + 1) or encode(hint)
    model.model.diffusion_model.register_forward_pre_hook(lambda _, inputs: calls["unet"].append(len(inputs[0])))
    cond = {"c_crossattn": [g["ctx"]], "c_concat": [g["hint"]]}
    DDIMSampler(model).sample(
        3,
        2,
        (4, 16, 16),
        cond,
        verbose=False,
        unconditional_guidance_scale=2.0,
        unconditional_conditioning={**cond, "c_crossattn": [g["uctx"]]},
    )
    assert calls["unet"] == [rows] * 3
    assert calls["hint"] == (1 if kind is ControlLDM else 3), "once, unless a script does it itself"


def sampled(model: ControlLDM, **how):
    g = tensors("tiny15_ldm_eps")
    cond = {"c_crossattn": [g["ctx"]], "c_concat": [g["hint"]]}
    uncond = {"c_crossattn": [g["uctx"]], "c_concat": [g["hint"]]}
    size = (len(g["xT"]), g["xT"].shape[1:])
    guidance = {"unconditional_guidance_scale": 7.5, "unconditional_conditioning": uncond}
    return DDIMSampler(model).sample(3, *size, cond, verbose=False, x_T=g["xT"], **guidance, **how)[0]


def test_an_apply_model_of_ones_own_samples_the_same_images():
    expected = sampled(tiny.control_ldm())
    by_class, by_instance = tiny.control_ldm(), tiny.control_ldm()
    by_class.__class__ = OwnApplication
    by_instance.apply_model = partial(OwnApplication.apply_model, by_instance)
    assert_close(sampled(by_class), expected)
    assert_close(sampled(by_instance), expected)


def test_scales_set_while_images_are_sampled_count_from_the_next_step_on():
    model = tiny.control_ldm()

    def end_the_control(step):
        model.control_scales = [0.0] * 5

    early = sampled(model, callback=end_the_control)
    model.control_scales = [1.0] * 5
    assert not torch.allclose(early, sampled(model))


def test_a_controlnet_that_says_the_same_everywhere():
    model, plain = tiny.control_ldm(global_average_pooling=True), tiny.control_ldm()
    g = tensors("tiny15_ldm_eps")
    control = plain.control_model(g["x_noisy"], g["hint"], g["t"], g["ctx"])
    means = [c.mean(dim=(2, 3), keepdim=True).expand_as(c) for c in control]
    expected = plain.model.diffusion_model(g["x_noisy"], g["t"], g["ctx"], means)
    cond = {"c_crossattn": [g["ctx"]], "c_concat": [g["hint"]]}
    assert_close(model.apply_model(g["x_noisy"], g["t"], cond), expected)


def test_what_a_script_has_locked_of_the_controlnet_stays_so():
    model = tiny.control_ldm()
    model.control_model.input_hint_block.requires_grad_(False)
    trained = {id(p) for p in model.trained_parameters()}
    locked = {id(p) for p in model.control_model.input_hint_block.parameters()}
    assert trained == {id(p) for p in model.control_model.parameters()} - locked
    model.control_model.zero_convs[0].requires_grad_(False)
    assert len(model.trained_parameters()) == len(trained) - 2
    model.control_model.requires_grad_(False)
    with pytest.raises(ValueError, match="all of control_model is locked"):
        model.trained_parameters()


def test_the_middle_alone_locks_the_other_connections_until_they_count_again():
    model = tiny.control_ldm()
    everything = len(model.trained_parameters())
    model.only_mid_control = True
    connections = len(list(model.control_model.zero_convs.parameters()))
    assert len(model.trained_parameters()) == len(model.trained_parameters()) == everything - connections
    model.only_mid_control = False
    assert len(model.trained_parameters()) == everything


class OwnInput(ControlLDM):
    """As users' subclasses, with the original's arguments."""

    def get_input(self, batch, k, bs=None, *args, **kwargs):
        return super().get_input(batch, k, bs, *args, **kwargs)


def test_a_get_input_of_ones_own_is_called_as_it_expects(monkeypatch):
    model = tiny.control_ldm(cond_stage_config=tiny.CLIP)
    model.__class__ = OwnInput
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    batch = {"jpg": torch.zeros(1, 64, 64, 3), "txt": ["a"], "hint": torch.rand(1, 64, 64, 3)}
    assert model.training_step(batch, 0) > 0
    assert len(model.log_images(batch, N=1, ddim_steps=1)["reconstruction"]) == 1


def test_an_input_is_had_as_scripts_ask_for_it():
    model = tiny.control_ldm(cond_stage_config=tiny.CLIP)
    batch = {
        "jpg": torch.zeros(3, 64, 64, 3),
        "other": torch.ones(3, 64, 64, 3),
        "txt": ["a", "b", "c"],
        "hint": torch.rand(3, 64, 64, 3),
        "meta": {"path": ["x", "y", "z"]},
    }
    z, cond = model.get_input(batch, "jpg", bs=2)
    assert len(z) == len(cond["c_crossattn"][0]) == len(cond["c_concat"][0]) == 2
    torch.manual_seed(0)
    other, _ = model.get_input(batch, "other")
    torch.manual_seed(0)
    assert torch.equal(other, model.get_input({**batch, "jpg": batch["other"]})[0])
    images = model.log_images(batch, N=1, ddim_steps=1)
    assert {name: len(values) for name, values in images.items()} == dict.fromkeys(images, 1)


@pytest.mark.parametrize("version", ["15", "21"])
def test_every_published_name_and_shape(version):
    config = OmegaConf.to_container(OmegaConf.load(f"models/cldm_v{version}.yaml").model)
    with torch.device("meta"):
        model = instantiate_from_config(config)
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    published = {name: shape for name, (_, shape) in published_names(f"control_sd{version}").items()}
    published.pop("cond_stage_model.transformer.text_model.embeddings.position_ids", None)
    assert ours == published
    assert not any(b.is_meta for n, b in model.named_buffers() if "." not in n), "schedules are never on meta"


@pytest.mark.slow
@pytest.mark.parametrize("version", ["15", "21"])
def test_full_size_pair_gives_the_golden_outputs(version):
    g = golden(f"sd{version}_unet_controlnet")
    config = OmegaConf.to_container(OmegaConf.load(f"models/cldm_v{version}.yaml").model.params)
    unet, control_net = (
        instantiate_from_config(config["unet_config"]),
        instantiate_from_config(config["control_stage_config"]),
    )
    from parity import fill_module

    fill_module(unet, "model.diffusion_model.")
    fill_module(control_net, "control_model.")

    def given(name, *shape):
        return fill(f"input.{name}", shape) * float(np.sqrt(np.prod(shape) / shape[0]))

    x, context = (
        given("x", 1, 4, 16, 16),
        given("ctx", 1, 77, unet.input_blocks[1][1].transformer_blocks[0].attn2.to_k.in_features),
    )
    hint, t = given("hint", 1, 3, 128, 128).abs().clamp(0, 1), torch.from_numpy(g["t"])
    with torch.no_grad():
        control = control_net(x, hint, t, context)
        for i, c in enumerate(control):
            assert_close(np.array([c.mean().item(), c.std().item()]), g[f"control_{i:02d}_mean_std"], f"control {i}")
        assert_close(unet(x, t, context), g["out_no_control"])
        assert_close(unet(x, t, context, control), g["out_control"])


def test_a_fresh_controlnet_changes_nothing():
    unet, control_net = tiny.unet(), tiny.ControlNet(hint_channels=3, **tiny.encoder_params("15"))
    x, context, t = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 48), torch.tensor([500])
    with torch.no_grad():
        control = control_net(x, torch.rand(1, 3, 64, 64), t, context)
        assert all((c == 0).all() for c in control)
        assert torch.equal(unet(x, t, context, control), unet(x, t, context))


def test_scales_weigh_the_connections_and_default_to_the_models():
    g = tensors("tiny15_ldm_eps")
    model = tiny.control_ldm()
    cond = {"c_crossattn": [g["ctx"]], "c_concat": [g["hint"]]}
    with torch.no_grad():
        plain = model.apply_model(g["x_noisy"], g["t"], {**cond, "c_concat": None})
        none = model.apply_model(g["x_noisy"], g["t"], {**cond, "control_scales": [0.0] * 5})
        model.control_scales = [0.0] * 5
        by_attribute = model.apply_model(g["x_noisy"], g["t"], cond)
    assert_close(none, plain)
    assert torch.equal(none, by_attribute)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c_concat": [torch.zeros(1, 3, 64, 72)]}, r"hint must be \(64, 64\).*got \(64, 72\)"),
        ({"c_concat": [torch.zeros(1, 1, 64, 64)]}, r"hint must be \(b, 3, H, W\), got \(1, 1, 64, 64\)"),
        ({"control_scales": [1.0]}, "control_scales must have 5 weights, got 1"),
    ],
)
def test_wrong_conditions_are_named(change, message):
    model = tiny.control_ldm()
    cond = {"c_crossattn": [torch.zeros(1, 7, 48)], "c_concat": [torch.zeros(1, 3, 64, 64)], **change}
    with pytest.raises(ValueError, match=message):
        model.apply_model(torch.zeros(1, 4, 8, 8), torch.tensor([1]), cond)


def test_wrong_number_of_controls_and_odd_latents_are_named():
    unet = tiny.unet()
    x, t, context = torch.zeros(1, 4, 8, 8), torch.tensor([1]), torch.zeros(1, 7, 48)
    with pytest.raises(ValueError, match="control must have 5 tensors, got 1"):
        unet(x, t, context, [x])
    with pytest.raises(ValueError, match="multiples of 2"):
        unet(F.pad(x, (0, 1)), t, context)
