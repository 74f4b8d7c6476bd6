"""From control map and prompt to images, on a tiny ControlLDM whose weights follow from their names."""

import numpy as np
import pytest
import torch

import tiny
from cldm.cldm import ControlLDM
from cldm.pipeline import SAMPLERS as pipeline_samplers
from cldm.pipeline import ModelFiles, Settings, choose_precision, generate, load
from cldm.settings import SAMPLERS
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.dpm_solver import DPMSolverSampler
from ldm.models.diffusion.uni_pc import UniPCSampler

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


def test_precision_by_name_and_device():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_precision("auto", cpu) is torch.float32
    assert choose_precision("auto", torch.device("mps")) is torch.float32
    assert choose_precision("auto", cuda) is torch.float16
    assert choose_precision("bfloat16", cpu) is torch.bfloat16
    with pytest.raises(ValueError, match="precision must be auto, float32, bfloat16, float16, got 'half'"):
        choose_precision("half", cpu)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    config, checkpoint = tiny.write_model(tmp_path_factory.mktemp("model"))
    return ModelFiles(config, (checkpoint,))


def test_a_loaded_model_gives_the_same_image(files, model, edges):
    loaded = load(files, "cpu")
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not loaded.training
    assert np.array_equal(
        generate(loaded, edges, "a bird", QUICK).images[0], generate(model, edges, "a bird", QUICK).images[0]
    )


def test_in_float16_the_autoencoder_stays_in_float32(files):
    loaded = load(files, "cpu", "float16")
    assert loaded.model.diffusion_model.dtype is loaded.control_model.dtype is torch.float16
    assert loaded.first_stage_model.dtype is loaded.alphas_cumprod.dtype is torch.float32


def test_bfloat16_gives_about_the_same_image(files, model, edges):
    expected = generate(model, edges, "a bird", QUICK).images[0].astype(int)
    image = generate(load(files, "cpu", "bfloat16"), edges, "a bird", QUICK).images[0].astype(int)
    assert 0 < np.abs(image - expected).mean() < 8


def test_what_cannot_be_loaded_is_an_error(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.pth"):
        load(ModelFiles(files.config, (tmp_path / "absent.pth",)), "cpu")
    with pytest.raises(ValueError, match="device 'abacus' cannot be used here"):
        load(files, "abacus")
    with pytest.raises(ValueError, match="precision must be auto"):
        load(files, "cpu", "half")
