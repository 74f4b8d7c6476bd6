"""From a config and files to a ready model, the way that users' scripts do it."""

import copy
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from checkpoints import CONTROL, POSITION_IDS, assert_same, base_of, control_of, full_weights, tiny_config
from cldm.cldm import ControlLDM
from cldm.model import create_model, load_model, load_state_dict, read_config
from cldm.weights.reading import read_weights
from cldm.weights.saving import save_weights
from ldm.deferred import HandedOver, is_deferred
from parity import published_names

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="session")
def config(tmp_path_factory) -> Path:
    return tiny_config(tmp_path_factory.mktemp("model"))


@pytest.fixture
def weights(config) -> HandedOver:
    return HandedOver(full_weights(config), "full")


@pytest.fixture
def file(weights, tmp_path) -> Path:
    return save_weights(weights, tmp_path / "full.safetensors")


def mapping_of(tensor: torch.Tensor) -> str:
    """The process's line about the memory that a tensor is in, which ends in the file's name if it is mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [(line, *(int(end, 16) for end in line.split()[0].split("-"))) for line in lines]
    return next(line for line, start, end in spans if start <= tensor.data_ptr() < end)


def loss(model: ControlLDM) -> torch.Tensor:
    torch.manual_seed(0)
    batch = next(iter(batches()))
    return model(*model.get_input(batch))


def batches() -> DataLoader:
    torch.manual_seed(0)
    item = {"jpg": torch.rand(64, 64, 3) * 2 - 1, "hint": torch.rand(64, 64, 3), "txt": "a red star"}
    return DataLoader([item, item], batch_size=1)


def trainer(folder: Path) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(max_steps=2, accelerator="cpu", default_root_dir=folder, enable_model_summary=False, **quiet)


@pytest.mark.parametrize("version", ["15", "21"])
@pytest.mark.parametrize("with_ids", [True, False])
def test_every_published_name_and_shape_loads_strictly(version, with_ids):
    published = published_names(f"control_sd{version}")
    weights = {name: torch.zeros((), dtype=dtype).expand(shape) for name, (dtype, shape) in published.items()}
    if with_ids and version == "15":
        assert POSITION_IDS in weights
    else:
        weights.pop(POSITION_IDS, None)
    model = create_model(MODELS / f"cldm_v{version}.yaml").cpu()
    result = model.load_state_dict(HandedOver(weights, "published"), assign=True)
    assert result.missing_keys == result.unexpected_keys == []
    assert not is_deferred(model)


@pytest.mark.parametrize("name", ["full.safetensors", "full.ckpt", "full.pth"])
def test_the_users_habit(config, weights, tmp_path, name):
    path = save_weights({**weights, POSITION_IDS: torch.arange(77)[None]}, tmp_path / name)
    model = create_model(str(config)).cpu()
    model.load_state_dict(load_state_dict(str(path), location="cpu"))
    assert type(model) is ControlLDM
    assert_same(model.state_dict(), weights)
    assert_same(load_model(config, path, device="cpu").state_dict(), weights)


def test_weights_are_the_files_own_pages_and_training_leaves_the_file_alone(config, file, weights, tmp_path):
    before = file.read_bytes()
    model = load_model(config, file, device="cpu").train()
    name = "model.diffusion_model.time_embed.0.weight"
    assert str(file) in mapping_of(model.state_dict()[name])
    model.learning_rate = 1e-3
    trainer(tmp_path).fit(model, batches())
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], weights[name])}
    assert changed
    assert all(name.startswith(CONTROL) for name in changed), "the base is locked"
    assert file.read_bytes() == before


def test_a_model_that_was_never_loaded_is_initialised_as_configured(config, tmp_path):
    model = create_model(config).cpu()
    state = model.state_dict()
    assert not any(tensor.is_meta for tensor in [*state.values(), *model.buffers()])
    assert not any(t.any() for n, t in state.items() if n.startswith(f"{CONTROL}zero_convs."))
    assert not state[f"{CONTROL}input_hint_block.14.weight"].any()
    assert state[f"{CONTROL}input_hint_block.0.weight"].any()
    assert state["alphas_cumprod"][0] == pytest.approx(1 - 0.00085)
    assert not any(p.requires_grad for p in model.cond_stage_model.parameters())
    model = create_model(config).to("cpu")
    assert is_deferred(model)
    trainer(tmp_path).fit(model, batches())
    assert torch.isfinite(loss(model))


def test_a_loaded_model_gives_the_loss_of_one_that_was_built_and_filled(config, file, weights):
    built = create_model(config)
    built.state_dict()  # initialises it
    built.load_state_dict(weights)
    mapped = loss(load_model(config, file, device="cpu")).item()
    assert mapped == pytest.approx(loss(built.eval()).item(), rel=1e-6)  # memory aligned otherwise rounds otherwise


def test_a_loaded_model_can_be_copied(config, file):
    model = load_model(config, file, device="cpu")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model.control_model.time_embed[0].weight.zero_()
    assert twin.control_model.time_embed[0].weight.any()


def test_lightnings_checkpoints_have_position_ids_and_load_again(config, file, tmp_path):
    model = load_model(config, file, device="cpu")
    training = trainer(tmp_path)
    training.fit(model, batches())
    training.save_checkpoint(tmp_path / "last.ckpt")
    saved = read_weights(tmp_path / "last.ckpt")
    assert torch.equal(saved[POSITION_IDS], torch.arange(77)[None])
    assert_same(load_model(config, tmp_path / "last.ckpt", device="cpu").state_dict(), model.state_dict())
    trainer(tmp_path).fit(load_model(config, file, device="cpu"), batches(), ckpt_path=tmp_path / "last.ckpt")


def test_two_files_make_one_model(config, weights, tmp_path):
    base = save_weights(base_of(weights), tmp_path / "base.safetensors")
    control = save_weights(control_of(weights), tmp_path / "control.pth")
    model = load_model(config, base, control, device="cpu")
    assert not model.training
    assert_same(model.state_dict(), weights)


def test_precision_is_chosen_on_loading(config, weights, tmp_path):
    half = {name: tensor.half() for name, tensor in weights.items()}
    path = save_weights(half, tmp_path / "half.safetensors")
    assert {p.dtype for p in load_model(config, path, device="cpu").parameters()} == {torch.float32}
    model = load_model(config, path, device="cpu", dtype=torch.float16)
    assert model.control_model.dtype == model.model.diffusion_model.dtype == torch.float16
    assert model.first_stage_model.dtype == model.alphas_cumprod.dtype == torch.float32
    assert torch.equal(model.alphas_cumprod, weights["alphas_cumprod"]), "not what was rounded to half"


def test_the_files_schedule_is_used_where_it_has_one(config, weights):
    other = {name: 0.5 * tensor if name == "betas" else tensor for name, tensor in weights.items() if name != "logvar"}
    model = create_model(config)
    model.load_state_dict(other)
    assert torch.equal(model.betas, other["betas"])
    assert torch.equal(model.logvar, weights["logvar"])


def test_averaged_weights_are_the_bases(config, weights, tmp_path):
    unet = {n: t for n, t in weights.items() if n.startswith("model.")}
    averages = {"model_ema." + name.removeprefix("model.").replace(".", ""): t + 1 for name, t in unet.items()}
    base = save_weights({**base_of(weights), **averages}, tmp_path / "base.ckpt")
    control = save_weights(control_of(weights), tmp_path / "control.pth")
    model = load_model(config, base, control, device="cpu", ema=True)
    assert_same(model.state_dict(), {**weights, **{name: t + 1 for name, t in unet.items()}})
    assert_same(load_model(config, base, control, device="cpu").state_dict(), weights)
    name = next(iter(unet))
    assert torch.equal(load_state_dict(base, ema=True)[name], unet[name] + 1)


@pytest.mark.parametrize("name", ["sd.ckpt", "sd.safetensors"])
def test_a_file_that_was_loaded_may_be_saved_over(config, weights, tmp_path, name):
    path = save_weights(weights, tmp_path / name)
    given = load_state_dict(path)
    assert not any(str(tmp_path) in mapping_of(tensor) for tensor in given.values())
    torch.save(given, path)
    assert_same(load_state_dict(path), weights)


def test_models_that_were_given_the_same_weights_do_not_share_them(config, file, weights):
    given = load_state_dict(file)
    first, second = create_model(config), create_model(config)
    first.load_state_dict(given)
    with torch.no_grad():
        first.control_model.time_embed[0].weight.zero_()
    second.load_state_dict(given)
    assert_same(second.state_dict(), weights)


def test_another_location_gets_copies(file, weights):
    assert all(tensor.is_meta for tensor in load_state_dict(file, location="meta").values())
    assert_same(load_state_dict(file, location=torch.device("cpu")), weights)


def test_what_is_missing_is_named_with_its_file_and_nothing_is_loaded(config, weights, tmp_path):
    path = save_weights(base_of(weights), tmp_path / "v1-5-pruned.safetensors")
    message = r"v1-5-pruned\.safetensors is not what .*missing: control_model.*tool_add_control\.py IN OUT"
    model = create_model(config)
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(load_state_dict(path))
    assert is_deferred(model)
    with pytest.raises(ValueError, match=message):
        load_model(config, path, device="cpu")
    with pytest.raises(ValueError, match="got 0"):
        load_model(config, device="cpu")
    with pytest.raises(ValueError, match="got 3"):
        load_model(config, path, path, path, device="cpu")


def test_without_strict_the_rest_is_initialised(config, weights):
    model = create_model(config)
    result = model.load_state_dict(base_of(weights), strict=False)
    assert {name.split(".")[0] for name in result.missing_keys} == {"control_model"}
    assert_same(base_of(model.state_dict()), base_of(weights))
    assert not model.control_model.zero_convs[0][0].weight.any()


def test_configs_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config .*cldm_v16\.yaml; the project has .*models/cldm_v15\.yaml"):
        create_model(tmp_path / "cldm_v16.yaml")
    for content in ("x: 1", "- a", "model: 3", ""):
        (tmp_path / "other.yaml").write_text(content)
        with pytest.raises(ValueError, match=r"other\.yaml to have the key 'model'"):
            read_config(tmp_path / "other.yaml")
    for broken in (b"model: {a", b"\xff\xfe\x00"):
        (tmp_path / "broken.yaml").write_bytes(broken)
        with pytest.raises(ValueError, match=r"cannot read .*broken\.yaml as a yaml config"):
            read_config(tmp_path / "broken.yaml")
