"""From control map and prompt to images, on a tiny ControlLDM whose weights follow from their names."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import tiny
from cldm.cldm import ControlLDM
from cldm.conditions import AppliedControl
from cldm.loading import LoadedModel
from cldm.pipeline import SAMPLERS as pipeline_samplers
from cldm.pipeline import Control, Settings, generate
from cldm.settings import SAMPLERS
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.dpm_solver import DPMSolverSampler
from ldm.models.diffusion.uni_pc import UniPCSampler
from ldm.modules.attention import BasicTransformerBlock

SAMPLER_CLASSES = {"ddim": DDIMSampler, "dpm++": DPMSolverSampler, "unipc": UniPCSampler}
QUICK = Settings(steps=3, seed=5, scale=4.0)


@pytest.fixture(scope="module")
def model() -> ControlLDM:
    return tiny.control_ldm(cond_stage_config=tiny.CLIP)


@pytest.fixture(scope="module")
def edges() -> np.ndarray:
    edges = np.zeros((64, 128, 3), np.uint8)
    edges[16:48, 20] = edges[16:48, 100] = edges[16, 20:100] = edges[47, 20:100] = 255
    return edges


def changed(**changes) -> Settings:
    return Settings(**{"steps": QUICK.steps, "seed": QUICK.seed, "scale": QUICK.scale, **changes})


def by_hand(model: ControlLDM, edges: np.ndarray, prompt: str, settings: Settings, cond_more: dict, uncond_more: dict):
    """One image with explicit conditions and noise."""
    text = [f"{prompt}, {settings.added_prompt}", settings.negative_prompt]
    context, negative = (model.get_learned_conditioning([t]) for t in text)
    noise = torch.randn(4, 8, 16, generator=torch.Generator("cpu").manual_seed(settings.seed))[None]
    latents, _ = SAMPLER_CLASSES[settings.sampler](model).sample(
        settings.steps,
        1,
        (4, 8, 16),
        {"c_crossattn": [context], **cond_more},
        x_T=noise,
        unconditional_guidance_scale=settings.scale,
        unconditional_conditioning={"c_crossattn": [negative], **uncond_more},
        verbose=False,
    )
    pixels = model.decode_first_stage(latents)[0].permute(1, 2, 0).numpy()
    return np.clip(np.rint((pixels + 1) * 127.5), 0, 255).astype(np.uint8)


def hint_of(edges: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(edges).permute(2, 0, 1)[None].float() / 255


def assert_same_image(a: np.ndarray, b: np.ndarray) -> None:
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.uint8
    assert np.abs(a.astype(int) - b.astype(int)).max() <= 1


def differs(a: np.ndarray, b: np.ndarray) -> bool:
    return np.abs(a.astype(int) - b.astype(int)).mean() > 2


def test_an_image_is_what_the_parts_give_one_after_the_other(model, edges):
    result = generate(model, edges, "a bird", QUICK)
    control = {"c_concat": [hint_of(edges)]}
    assert_same_image(result.images[0], by_hand(model, edges, "a bird", QUICK, control, control))
    assert result.images[0].shape == edges.shape
    assert result.seeds == [5]
    assert result.images[0].std() > 5, "not an empty picture, or comparing would show nothing"


@pytest.mark.parametrize("sampler", ["dpm++", "unipc"])
def test_other_samplers_make_the_image_from_the_same_parts(model, edges, sampler):
    control = {"c_concat": [hint_of(edges)]}
    settings = changed(sampler=sampler)
    image = generate(model, edges, "a bird", settings).images[0]
    assert_same_image(image, by_hand(model, edges, "a bird", settings, control, control))
    assert differs(image, generate(model, edges, "a bird", QUICK).images[0])


def test_every_sampler_that_the_settings_allow_is_there():
    assert tuple(pipeline_samplers) == SAMPLERS


def test_guess_mode_hides_the_control_from_the_unconditional_pass(model, edges):
    settings = changed(guess_mode=True, strength=1.5)
    guess = {"c_concat": [hint_of(edges)], "control_scales": [1.5 * 0.825 ** (4 - i) for i in range(5)]}
    image = generate(model, edges, "a bird", settings).images[0]
    assert_same_image(image, by_hand(model, edges, "a bird", settings, guess, {"c_concat": None}))
    assert differs(image, generate(model, edges, "a bird", changed(strength=1.5)).images[0])


def test_strength_zero_is_no_control(model, edges):
    image = generate(model, edges, "a bird", changed(strength=0)).images[0]
    assert_same_image(image, by_hand(model, edges, "a bird", QUICK, {}, {}))
    assert differs(image, generate(model, edges, "a bird", QUICK).images[0])


@pytest.mark.parametrize(
    "changes", [{}, {"eta": 1.0}, {"guess_mode": True}, {"sampler": "dpm++"}, {"sampler": "unipc"}]
)
def test_image_k_of_a_batch_can_be_made_again_alone(model, edges, changes):
    batch = generate(model, edges, "a bird", changed(images=3, **changes))
    assert batch.seeds == [5, 6, 7]
    assert differs(batch.images[0], batch.images[1])
    for seed, image in zip(batch.seeds, batch.images, strict=True):
        assert_same_image(image, generate(model, edges, "a bird", changed(seed=seed, **changes)).images[0])


@pytest.mark.parametrize("changes", [{}, {"eta": 1.0, "guess_mode": True}, {"sampler": "unipc"}])
def test_images_drawn_in_batches_are_those_drawn_at_once(model, edges, changes):
    at_once = generate(model, edges, "a bird", changed(images=3, **changes))
    calls = []
    settings = changed(images=3, batch_size=2, **changes)
    batches = generate(model, edges, "a bird", settings, lambda done, steps, z: calls.append((done, steps, len(z))))
    assert batches.seeds == at_once.seeds
    for one, other in zip(batches.images, at_once.images, strict=True):
        assert_same_image(one, other)
    assert calls == [(1, 6, 2), (2, 6, 2), (3, 6, 2), (4, 6, 1), (5, 6, 1), (6, 6, 1)]
    enough = generate(model, edges, "a bird", changed(images=3, batch_size=3, **changes))
    assert np.array_equal(enough.images, at_once.images)


def test_a_part_of_an_image_is_repainted_in_batches_too(model, edges, photo):
    mask = np.zeros((64, 128), np.uint8)
    mask[:, 64:] = 255
    settings = changed(images=3, steps=4, denoise=0.5)
    at_once, batches = (
        generate(model, edges, "a bird", replace(settings, batch_size=size), image=photo, mask=mask).images
        for size in (0, 1)
    )
    for one, other in zip(batches, at_once, strict=True):
        assert_same_image(one, other)


def test_the_schedules_steps_and_a_negative_weight_are_possible(model, edges):
    calls = []
    generate(model, edges, "", changed(steps=1000, denoise=0.002), lambda *call: calls.append(call[:2]), image=edges)
    assert calls == [(1, 2), (2, 2)]
    assert differs(*(generate(model, edges, "", changed(strength=weight)).images[0] for weight in (-1, 1)))


def test_what_acts_in_no_whole_step_is_said(model, edges, photo):
    never = Control(edges, end=0.3)
    (notice,) = generate(model, never, "", QUICK).notices
    assert notice.startswith("The control had no effect: from 0 to 0.3 of 3 steps there is not one whole step.")
    (notice,) = generate(model, [Control(edges), replace(never, model=0)], "", QUICK).notices
    assert notice.startswith("Control 1, counted from 0, had no effect")
    (notice,) = generate(model, edges, "", changed(denoise=0.3), image=photo).notices
    assert notice.startswith("Nothing of the image was changed: denoise = 0.3 of 3 steps is not one whole step.")
    assert generate(model, never, "", changed(denoise=0.0), image=photo).notices == ()
    assert generate(model, replace(never, end=0.34), "", QUICK).notices == ()


def test_same_settings_same_bytes_whatever_was_generated_between(model, edges):
    first = generate(model, edges, "a bird", QUICK).images[0]
    torch.manual_seed(99)
    generate(model, edges, "a fish", changed(guess_mode=True, strength=0.3, seed=8))
    assert np.array_equal(first, generate(model, edges, "a bird", QUICK).images[0])


def test_a_picked_seed_is_returned_and_makes_the_image_again(model, edges):
    picked = generate(model, edges, "a bird", changed(seed=-1))
    again = generate(model, edges, "a bird", changed(seed=picked.seeds[0]))
    assert np.array_equal(picked.images[0], again.images[0])


def test_nothing_is_left_in_the_model(model, edges):
    def state() -> dict:
        plain = {name: value for name, value in vars(model).items() if not name.startswith("_")}
        return {**plain, "control_scales": list(model.control_scales), "modules": len(list(model.modules()))}

    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before, random = state(), torch.get_rng_state()
    generate(model, edges, "a bird", changed(guess_mode=True, strength=0.5, eta=0.5))
    assert state() == before
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_control_is_encoded_once_for_all_images_and_steps(model, edges, monkeypatch, sampler):
    seen = []
    encode = model.control_model.encode_hint
    monkeypatch.setattr(model.control_model, "encode_hint", lambda hint: (seen.append(hint.shape), encode(hint))[1])
    generate(model, edges, "a bird", changed(images=2, sampler=sampler))
    assert seen == [(1, 3, 64, 128)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_progress_is_told_of_every_step_and_can_end_the_generation(model, edges, sampler):
    calls, settings = [], changed(sampler=sampler)
    generate(model, edges, "", settings, progress=lambda done, steps, z: calls.append((done, steps, tuple(z.shape))))
    assert calls == [(i, 3, (1, 4, 8, 16)) for i in (1, 2, 3)]

    def stop(done, steps, z):
        raise KeyboardInterrupt(done)

    with pytest.raises(KeyboardInterrupt, match="1"):
        generate(model, edges, "", settings, progress=stop)


def test_decoded_images_are_told_and_can_end_the_generation(model, edges):
    told = []
    generate(model, edges, "", changed(steps=1, images=3), decoded=told.append)
    assert told == [1, 2, 3]

    def stop(done):
        raise KeyboardInterrupt(done)

    with pytest.raises(KeyboardInterrupt, match="1"):
        generate(model, edges, "", changed(steps=1, images=3), decoded=stop)


def test_an_image_that_is_no_number_is_an_error_with_advice(edges):
    broken = tiny.control_ldm(cond_stage_config=tiny.CLIP)
    with torch.no_grad():
        broken.first_stage_model.decoder.conv_out.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="no numbers, in float32 on cpu: the weights may be damaged"):
        generate(broken, edges, "", changed(steps=1))
    for network in (broken.model, broken.control_model, broken.cond_stage_model):
        network.to(torch.bfloat16)
    with pytest.raises(FloatingPointError, match="in bfloat16 on cpu: use precision float32"):
        generate(broken, edges, "", changed(steps=1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((64, 100, 3), np.uint8), r"sides that are multiples of 64, got \(64, 100, 3\)"),
        (np.zeros((64, 64), np.uint8), r"got \(64, 64\); annotator.util.HWC3 and resize_image"),
        (np.zeros((64, 64, 4), np.uint8), r"got \(64, 64, 4\)"),
        (np.zeros((0, 64, 3), np.uint8), r"got \(0, 64, 3\)"),
        (np.zeros((64, 64, 3), np.float32), "must be a uint8 array .* got float32"),
        ([[0]], "got list"),
    ],
)
def test_a_wrong_control_map_is_refused(model, wrong, message):
    with pytest.raises(ValueError, match=message):
        generate(model, wrong, "", QUICK)


@pytest.mark.parametrize("hidden", ["guess_mode", "cfg_resolution_weighting"])
def test_where_the_unconditional_pass_sees_no_control_it_costs_no_controlnet(model, edges, hidden):
    sizes = []
    with model.control_model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0]))):
        generate(model, edges, "a bird", changed(images=2, **{hidden: True}))
    assert sizes == [2] * 3


def test_the_texts_keys_and_values_are_computed_once_for_all_steps(model, edges):
    blocks = [m for m in model.modules() if isinstance(m, BasicTransformerBlock)]
    projections = [projection for block in blocks for projection in (block.attn2.to_k, block.attn2.to_v)]
    calls = []
    hooks = [p.register_forward_hook(lambda module, *_: calls.append(module)) for p in projections]
    generate(model, edges, "a bird", QUICK)
    for hook in hooks:
        hook.remove()
    assert len(blocks) == 10
    assert sorted(map(id, calls)) == sorted(map(id, projections))


def test_resolution_weighting_is_the_papers(model, edges):
    image = generate(model, edges, "a bird", changed(cfg_resolution_weighting=True, strength=0.5)).images[0]
    weighted = {"c_concat": [hint_of(edges)], "control_scales": [0.5, 0.5, 1.0, 1.0, 1.0]}
    assert_same_image(image, by_hand(model, edges, "a bird", QUICK, weighted, {"c_concat": None}))
    assert differs(image, generate(model, edges, "a bird", changed(strength=0.5)).images[0])


def test_several_controls_are_summed(model, edges):
    turned = np.ascontiguousarray(edges[:, ::-1, ::-1])
    controls = [Control(edges, weight=0.5), Control(turned, weight=1.5, model=0)]
    applied = [AppliedControl(model.control_model, hint_of(c.map), [c.weight] * 5) for c in controls]
    image = generate(model, controls, "a bird", QUICK).images[0]
    assert_same_image(image, by_hand(model, edges, "a bird", QUICK, {"controls": applied}, {"controls": applied}))
    assert differs(image, generate(model, edges, "a bird", QUICK).images[0])
    one = generate(model, [Control(edges, weight=0.5), Control(edges, weight=0.5, model=0)], "a bird", QUICK)
    assert_same_image(one.images[0], generate(model, edges, "a bird", QUICK).images[0])


def test_a_control_acts_in_its_share_of_the_steps_alone(model, edges):
    seen = []
    with model.control_model.register_forward_pre_hook(lambda _, inputs: seen.append(int(inputs[2][0]))):
        part = generate(model, Control(edges, start=0.25, end=0.5), "a bird", changed(steps=4)).images[0]
    assert seen == [501]  # of 751, 501, 251 and 1
    assert differs(part, generate(model, edges, "a bird", changed(steps=4)).images[0])
    never = generate(model, Control(edges, start=0.3, end=0.4), "a bird", QUICK).images[0]
    assert np.array_equal(never, generate(model, None, "a bird", QUICK, size=(64, 128)).images[0])


def test_no_control_is_strength_zero(model, edges):
    expected = generate(model, edges, "a bird", changed(strength=0)).images[0]
    assert np.array_equal(generate(model, None, "a bird", QUICK, size=(64, 128)).images[0], expected)
    assert generate(model, None, "a bird", changed(steps=1)).images[0].shape == (64, 64, 3), "the config's image_size"


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, 4, 3), np.uint8).repeat(32, 0).repeat(32, 1)


def test_an_image_to_start_from_goes_through_its_share_of_the_steps(model, edges, photo):
    z = model.scale_factor * model.encode_first_stage(torch.from_numpy(photo / 127.5 - 1).permute(2, 0, 1)[None]).mean
    hint = {"controls": [AppliedControl(model.control_model, hint_of(edges), [1.0] * 5)]}
    context, negative = (
        model.get_learned_conditioning([t]) for t in (f"a bird, {QUICK.added_prompt}", QUICK.negative_prompt)
    )
    noise = torch.randn(4, 8, 16, generator=torch.Generator("cpu").manual_seed(5))[None]
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    scheduler.set_timesteps(4)
    timesteps = scheduler.timesteps[2:]
    x = scheduler.add_noise(z, noise, timesteps[:1])
    for t in timesteps:
        without, given = (model.apply_model(x, t[None], {"c_crossattn": [c], **hint}) for c in (negative, context))
        x = scheduler.step(without + 4 * (given - without), t, x).prev_sample
    expected = np.clip(np.rint((model.decode_first_stage(x)[0].permute(1, 2, 0).numpy() + 1) * 127.5), 0, 255)
    calls = []
    image = generate(
        model, edges, "a bird", changed(steps=4, denoise=0.5), lambda *call: calls.append(call[:2]), image=photo
    ).images[0]
    assert_same_image(image, expected.astype(np.uint8))
    assert calls == [(1, 2), (2, 2)]


def test_denoising_nothing_gives_what_the_autoencoder_makes_of_the_image(model, edges, photo):
    z = model.encode_first_stage(torch.from_numpy(photo / 127.5 - 1).permute(2, 0, 1)[None]).mean
    expected = np.clip(np.rint((model.first_stage_model.decode(z)[0].permute(1, 2, 0).numpy() + 1) * 127.5), 0, 255)
    result = generate(model, edges, "a bird", changed(denoise=0.0, images=2), image=photo)
    for image in result.images:
        assert_same_image(image, expected.astype(np.uint8))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_mask_keeps_everything_outside_to_the_bit(model, edges, photo, sampler):
    mask = np.zeros((64, 128), np.uint8)
    mask[10:50, 30:101] = 255
    settings = changed(sampler=sampler, denoise=0.7 if sampler == "ddim" else 1.0)
    image = generate(model, edges, "a bird", settings, image=photo, mask=mask).images[0]
    assert np.array_equal(image[mask == 0], photo[mask == 0])
    assert np.abs(image[mask > 0].astype(int) - photo[mask > 0]).mean() > 5
    soft = generate(model, edges, "a bird", replace(settings, mask_border=6), image=photo, mask=mask).images[0]
    assert np.array_equal(soft[mask == 0], photo[mask == 0])
    assert np.array_equal(soft[20:40, 40:90], image[20:40, 40:90])
    assert not np.array_equal(soft, image)


def test_repainting_sees_what_is_kept(model, edges, photo):
    mask = np.zeros((64, 128), np.uint8)
    mask[:, 64:] = 255
    one = generate(model, edges, "a bird", QUICK, image=photo, mask=mask).images[0]
    changed_photo = photo.copy()
    changed_photo[:, :64] = 255 - photo[:, :64]
    two = generate(model, edges, "a bird", QUICK, image=changed_photo, mask=mask).images[0]
    assert np.abs(one[:, 64:].astype(int) - two[:, 64:]).max() > 2


@pytest.mark.parametrize("more", [{}, {"guess_mode": True, "images": 2}])
def test_saving_memory_gives_the_same_images(model, edges, photo, more, monkeypatch):
    monkeypatch.setattr("ldm.modules.diffusionmodules.strips.STRIP_NUMBERS", 2**15)
    saving = LoadedModel(model, (model.control_model,), torch.device("cpu"), save_memory=True)
    settings = changed(denoise=0.7, **more)
    for ours, theirs in zip(
        generate(saving, edges, "a bird", settings, image=photo).images,
        generate(model, edges, "a bird", settings, image=photo).images,
        strict=True,
    ):
        assert_same_image(ours, theirs)


def sd21(parameterization: str) -> ControlLDM:
    """A tiny model in the style of Stable Diffusion 2.1."""
    encoder = tiny.encoder_params("21")
    unet = {"target": "cldm.cldm.ControlledUnetModel", "params": {"out_channels": 4, **encoder}}
    control = {"target": "cldm.cldm.ControlNet", "params": {"hint_channels": 3, **encoder}}
    text = {
        "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
        "params": {"width": 48, "layers": 2, "heads": 4, "layer": "penultimate"},
    }
    return tiny.control_ldm(parameterization, unet_config=unet, control_stage_config=control, cond_stage_config=text)


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_stable_diffusion_2(edges, parameterization):
    model, settings = sd21(parameterization), changed(long_prompts=True, images=2)
    prompt = "a bird on a tree " * 20
    batch = generate(model, edges, prompt, settings)
    assert_same_image(batch.images[1], generate(model, edges, prompt, replace(settings, seed=6, images=1)).images[0])
    cut = generate(model, edges, prompt, replace(settings, long_prompts=False))
    assert differs(batch.images[0], cut.images[0])
    assert batch.notices == ()
    assert len(cut.notices) == 1


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ({"image": np.zeros((64, 64, 3), np.uint8)}, {"denoise": 0.5}, r"control_map \(64, 128\), image \(64, 64\)"),
        ({"image": np.zeros((64, 128, 3), np.uint8)}, {}, "denoise must be below 1 with an image and no mask"),
        ({}, {"denoise": 0.5}, "denoise must be 1 without an image to start from, got 0.5"),
        ({"mask": np.zeros((64, 128), np.uint8)}, {}, "expected an image together with the mask"),
        ({"size": (64, 100)}, {}, r"size must be height and width, multiples of 64, got \(64, 100\)"),
        ({"size": (64, 64)}, {}, r"of one size, got control_map \(64, 128\), size \(64, 64\)"),
    ],
)
def test_arguments_that_do_not_go_together_are_named(model, edges, arguments, changes, message):
    with pytest.raises(ValueError, match=message):
        generate(model, edges, "", changed(**changes), **arguments)


def test_a_control_for_a_network_that_is_not_there_is_named(model, edges):
    with pytest.raises(ValueError, match=r"there is no ControlNet 1 for control 1: 1 are loaded"):
        generate(model, [Control(edges), Control(edges)], "", QUICK)
