"""Models from files: precision, further ControlNets of every known shape, and saved memory."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

import tiny
from cldm.cldm import ControlLDM
from cldm.loading import LoadedModel, choose_precision, load
from cldm.model_files import ModelFiles
from cldm.pipeline import Control, Settings, generate
from cldm.weights import legacy_pickle
from cldm.weights.diffusers_names import diffusers_names
from cldm.weights.saving import save_weights

QUICK = Settings(steps=2, seed=5, scale=4.0)
CONTROL, UNET = "control_model.", "model.diffusion_model."


@pytest.fixture(scope="module")
def edges() -> np.ndarray:
    edges = np.zeros((64, 64, 3), np.uint8)
    edges[16:48, 20] = edges[16, 20:50] = 255
    return edges


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    config, checkpoint = tiny.write_model(tmp_path_factory.mktemp("model"))
    return ModelFiles(config, (checkpoint,))


@pytest.fixture(scope="module")
def model() -> ControlLDM:
    return tiny.control_ldm(cond_stage_config=tiny.CLIP)


@pytest.fixture(scope="module")
def other(model) -> dict[str, torch.Tensor]:
    """A second ControlNet, without prefix."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in model.control_model.state_dict().items()
    }


def prefixed(other: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {CONTROL + name: tensor for name, tensor in other.items()}


def file_of(shape: str, other: dict[str, torch.Tensor], model: ControlLDM, folder: Path) -> Path:
    """The second ControlNet as others publish it."""
    base = model.model.diffusion_model.state_dict()
    match shape:
        case "bare":
            return save_weights(other, folder / "bare.safetensors")
        case "control-only":
            return save_weights(prefixed(other), folder / "control.safetensors")
        case "full":
            return save_weights({**model.state_dict(), **prefixed(other)}, folder / "full.safetensors")
        case "diffusers":
            names = diffusers_names(list(other))
            return save_weights({names[name]: tensor for name, tensor in other.items()}, folder / "d.safetensors")
        case "state_dict":
            torch.save({"state_dict": prefixed(other)}, folder / "wrapped.pth")
            return folder / "wrapped.pth"
        case "difference":
            less = {name: tensor - base[name] if name in base else tensor for name, tensor in other.items()}
            return save_weights({**prefixed(less), "difference": torch.tensor(1.0)}, folder / "diff.safetensors")
    raise ValueError(shape)


def test_precision_by_name_and_device():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_precision("auto", cpu) is torch.float32
    assert choose_precision("auto", torch.device("mps")) is torch.float32
    assert choose_precision("auto", cuda) is torch.float16
    assert choose_precision("bfloat16", cpu) is torch.bfloat16
    with pytest.raises(ValueError, match="precision must be auto, float32, bfloat16, float16, got 'half'"):
        choose_precision("half", cpu)


def test_a_loaded_model_gives_the_same_image_and_cannot_be_trained_by_mistake(files, model, edges):
    loaded = load(files, "cpu")
    assert not any(p.requires_grad for p in loaded.ldm.parameters())
    assert not loaded.ldm.training
    assert loaded.controls == (loaded.ldm.control_model,)
    assert np.array_equal(
        generate(loaded, edges, "a bird", QUICK).images[0], generate(model, edges, "a bird", QUICK).images[0]
    )


@pytest.mark.parametrize("shape", ["bare", "control-only", "full", "diffusers", "state_dict", "difference"])
def test_a_further_controlnet_of_every_known_shape(files, model, other, tmp_path, shape):
    loaded = load(files, "cpu", controls=[file_of(shape, other, model, tmp_path)])
    first, second = loaded.controls
    assert first is loaded.ldm.control_model
    assert not second.training
    assert not any(p.requires_grad for p in second.parameters())
    for name, tensor in second.state_dict().items():
        torch.testing.assert_close(tensor, other[name])


def test_a_base_takes_the_first_controlnet_as_its_own(files, model, other, edges, tmp_path):
    base = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(CONTROL)}
    save_file(base, tmp_path / "base.safetensors")
    own, further = tmp_path / "own.safetensors", tmp_path / "further.safetensors"
    save_file(prefixed(model.control_model.state_dict()), own)
    save_file(other, further)
    loaded = load(ModelFiles(files.config, (tmp_path / "base.safetensors",)), "cpu", controls=[own, further])
    assert len(loaded.controls) == 2
    both = [Control(edges), Control(edges, weight=0.5)]
    expected = generate(load(files, "cpu", controls=[further]), both, "a bird", QUICK).images[0]
    assert np.array_equal(generate(loaded, both, "a bird", QUICK).images[0], expected)
    swapped = generate(loaded, [Control(edges, model=1), Control(edges, weight=0.5, model=0)], "a bird", QUICK)
    assert not np.array_equal(swapped.images[0], expected)


def test_a_controlnet_with_a_decoder_of_its_own_cannot_be_a_further_one(files, model, other, tmp_path):
    decoder = {n: t for n, t in model.state_dict().items() if n.startswith((f"{UNET}output_blocks.", f"{UNET}out."))}
    file = save_weights({**prefixed(other), **decoder}, tmp_path / "tuned.safetensors")
    with pytest.raises(ValueError, match=r"tuned.safetensors was trained together with a U-Net's decoder"):
        load(files, "cpu", controls=[file])


def test_a_whole_checkpoint_with_a_decoder_of_its_own_cannot_be_a_further_one(files, model, other, tmp_path):
    told = {"settings": json.dumps({"sd_locked": False})}
    file = save_weights({**model.state_dict(), **prefixed(other)}, tmp_path / "model_000100.safetensors", told)
    with pytest.raises(ValueError, match=r"model_000100.safetensors was trained together with a U-Net's decoder"):
        load(files, "cpu", controls=[file])


def yaml_beside(file: Path, config: Path, pooled: bool) -> None:
    """As ControlNet 1.1 publishes them."""
    told = OmegaConf.load(config)
    if pooled:
        told.model.params.global_average_pooling = True
    OmegaConf.save(told, file.with_suffix(".yaml"))


def test_every_controlnet_is_averaged_as_its_own_file_says(files, model, other, edges, tmp_path):
    base = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(CONTROL)}
    save_file(base, tmp_path / "base.safetensors")
    plain = file_of("control-only", other, model, tmp_path)
    shuffle, untold = tmp_path / "shuffle.safetensors", tmp_path / "untold.safetensors"
    for file in (shuffle, untold):
        file.write_bytes(plain.read_bytes())
    yaml_beside(plain, files.config, pooled=False)
    yaml_beside(shuffle, files.config, pooled=True)
    folder = tmp_path / "diffusers"
    folder.mkdir()
    file_of("diffusers", other, model, tmp_path).rename(folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text('{"_class_name": "ControlNetModel", "global_pool_conditions": true}')

    def pooled(own: Path, *further: Path, config: Path = files.config, **given) -> tuple[int, ...]:
        model_files = ModelFiles(config, (tmp_path / "base.safetensors", own))
        return load(model_files, "cpu", controls=further, **given).pooled

    assert pooled(plain, shuffle, plain, folder) == (1, 3)
    assert pooled(shuffle, plain) == (0,)
    assert pooled(plain, untold, shuffle, config=shuffle.with_suffix(".yaml")) == (2,)
    assert pooled(untold, config=shuffle.with_suffix(".yaml")) == (0,), "the config is for the model's own"
    assert pooled(plain, shuffle, pooled={0: True, 1: False}) == (0,)
    with pytest.raises(ValueError, match=r"pooled has the places \[2\], but the last of the ControlNets is 1"):
        pooled(plain, shuffle, pooled={2: True})
    both = [Control(edges), Control(edges, weight=0.5)]
    loaded = load(files, "cpu", controls=[shuffle])
    averaged = generate(loaded, both, "a bird", QUICK).images[0]
    loaded.controls[1].global_average_pooling = False
    assert not np.array_equal(generate(loaded, both, "a bird", QUICK).images[0], averaged)


def test_a_shuffle_that_nothing_says_is_one_is_doubted(files, model, other, tmp_path):
    file = file_of("bare", other, model, tmp_path).rename(tmp_path / "control_v11e_sd15_shuffle.safetensors")
    with pytest.warns(UserWarning, match=r"shuffle\.safetensors seems to be .*as control_v11e_sd15_shuffle\.yaml"):
        assert load(files, "cpu", controls=[file]).pooled == ()
    assert load(files, "cpu", controls=[file], pooled={1: True}).pooled == (1,)


def test_a_base_that_cannot_be_mapped_is_read_once(files, model, other, tmp_path, monkeypatch):
    base = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(CONTROL)}
    torch.save(base, tmp_path / "base.ckpt", _use_new_zipfile_serialization=False)
    read, legacy = Counter(), legacy_pickle.load
    monkeypatch.setattr(legacy_pickle, "load", lambda path: (read.update([path.name]), legacy(path))[1])
    difference = file_of("difference", other, model, tmp_path)
    loaded = load(ModelFiles(files.config, (tmp_path / "base.ckpt",)), "cpu", controls=[difference, difference])
    assert read == {"base.ckpt": 1}
    for network in loaded.controls:
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(tensor, other[name])


def test_a_further_controlnet_for_other_control_images_is_refused(files, other, tmp_path):
    name = "input_hint_block.0.weight"
    file = save_weights({**other, name: other[name][:, :1]}, tmp_path / "grey.safetensors")
    with pytest.raises(ValueError, match=r"grey\.safetensors is not .*\. It has hint_channels 1, the config 3: use"):
        load(files, "cpu", controls=[file])


def test_in_float16_the_autoencoder_stays_in_float32(files, other, model, tmp_path):
    loaded = load(files, "cpu", "float16", controls=[file_of("bare", other, model, tmp_path)])
    ldm = loaded.ldm
    assert ldm.model.diffusion_model.dtype is ldm.control_model.dtype is loaded.controls[1].dtype is torch.float16
    assert ldm.first_stage_model.dtype is ldm.alphas_cumprod.dtype is torch.float32


def test_bfloat16_gives_about_the_same_image(files, model, edges):
    expected = generate(model, edges, "a bird", QUICK).images[0].astype(int)
    image = generate(load(files, "cpu", "bfloat16", save_memory=True), edges, "a bird", QUICK).images[0].astype(int)
    assert 0 < np.abs(image - expected).mean() < 8


def test_with_save_memory_only_the_schedule_is_on_the_device_between_generations(files, monkeypatch):
    monkeypatch.setattr("cldm.loading.choose_device", lambda device: torch.device(device))
    loaded = load(files, "meta", "float32", save_memory=True)
    on_device = {name for name, tensor in loaded.ldm.state_dict().items() if tensor.is_meta}
    assert on_device == {name for name, _ in loaded.ldm.named_buffers(recurse=False)}
    assert LoadedModel.of(loaded) is loaded


def test_with_save_memory_idle_weights_are_given_back_to_their_file(files, edges):
    plain, saving = (load(files, "cpu", "float32", save_memory=save_memory) for save_memory in (False, True))
    ldm = saving.ldm
    idle: list[list[bool]] = []

    def look(*_: object) -> None:
        parts = (ldm.cond_stage_model, ldm.model, ldm.control_model, ldm.first_stage_model)
        idle.append([not any(parameter.numel() for parameter in part.parameters()) for part in parts])

    for module in (ldm.cond_stage_model, ldm.control_model, ldm.first_stage_model.post_quant_conv):
        module.register_forward_pre_hook(look)
    first, again = (generate(saving, edges, "a bird", QUICK).images[0] for _ in range(2))
    assert idle[0] == [False, True, True, True]
    assert idle[2] == [True, False, False, True]
    assert [True, True, True, False] in idle
    assert np.array_equal(first, again)
    expected = generate(plain, edges, "a bird", QUICK).images[0]
    assert np.abs(first.astype(int) - expected).max() <= 1
    assert all(parameter.numel() for parameter in ldm.parameters())


def test_what_cannot_be_loaded_is_an_error(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.pth"):
        load(ModelFiles(files.config, (tmp_path / "absent.pth",)), "cpu")
    with pytest.raises(FileNotFoundError, match=r"absent.pth"):
        load(files, "cpu", controls=[tmp_path / "absent.pth"])
    with pytest.raises(ValueError, match="device 'abacus' cannot be used here"):
        load(files, "abacus")
    with pytest.raises(ValueError, match="precision must be auto"):
        load(files, "cpu", "half")


@pytest.mark.parametrize("save_memory", [False, True])
def test_freed_memory_is_kept_for_the_next_step_and_with_save_memory_given_back_between_parts(
    files, edges, monkeypatch, save_memory
):
    seen = []
    monkeypatch.setattr("cldm.loading.keep_freed_memory", lambda device: seen.append(f"kept on {device}"))
    monkeypatch.setattr("cldm.loading.give_back_freed_memory", lambda: seen.append("given back"))
    generate(load(files, "cpu", save_memory=save_memory), edges, "a bird", QUICK)
    assert seen == ["kept on cpu"] + ["given back"] * (3 if save_memory else 0)
