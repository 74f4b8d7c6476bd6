"""tool_convert.py's command line: what it writes is what diffusers and ourselves load, to the bit."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from omegaconf import OmegaConf

from checkpoints import CONTROL, POSITION_IDS, assert_same, base_of, control_of, full_weights, tiny_config
from cldm.cldm import ControlLDM
from cldm.model import load_model
from cldm.weights.convert_command import convert_main
from cldm.weights.reading import read_weights
from cldm.weights.saving import save_weights
from ldm.deferred import HandedOver
from parity import assert_close

ROOT = Path(__file__).parents[3]
WEIGHTS = "diffusion_pytorch_model.safetensors"
STYLES = ["15", "21", "mini"]


def config_of(style: str, folder: Path) -> Path:
    return ROOT / "models/cldm_mini.yaml" if style == "mini" else tiny_config(folder, style)


@pytest.fixture
def folder(tmp_path, monkeypatch, config, weights) -> Path:
    """The current folder, with a full checkpoint and its base in it."""
    monkeypatch.chdir(tmp_path)
    save_weights(weights, "full.safetensors")
    save_weights(base_of(weights), "base.ckpt")
    return tmp_path


def run(*arguments: object) -> None:
    convert_main("A description.", ROOT / "models", [str(argument) for argument in arguments])


def inputs(model: ControlLDM) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, hint, t, context."""
    generator = torch.Generator().manual_seed(3)
    width = model.control_model.middle_block[1].transformer_blocks[0].attn2.to_k.in_features
    x, context = torch.randn(2, 4, 8, 12, generator=generator), torch.randn(2, 7, width, generator=generator)
    return x, torch.rand(2, 3, 64, 96, generator=generator), torch.tensor([3, 901]), context


@torch.no_grad()
def assert_same_outputs(model: ControlLDM, theirs: ControlNetModel) -> None:
    x, hint, t, context = inputs(model)
    ours = model.control_model(x, hint, t, context)
    answer = theirs.eval()(x, t, context, hint)
    expected = [*answer.down_block_res_samples, answer.mid_block_res_sample]
    for number, (c, e) in enumerate(zip(ours, expected, strict=True)):
        assert e.abs().max() > 0
        assert_close(c, e, f"connection {number}")


@pytest.mark.parametrize("style", STYLES)
def test_diffusers_from_pretrained_and_from_single_file_are_our_controlnet(tmp_path, style):
    config = config_of(style, tmp_path)
    full = save_weights(full_weights(config), tmp_path / "full.safetensors")
    model = load_model(config, full, device="cpu")
    out, control, whole = tmp_path / "control", tmp_path / "control.safetensors", tmp_path / "whole.safetensors"
    run(full, out, "--to", "diffusers", "--config", config)
    run(full, control, "--to", "control", "--config", config)
    run(out, whole, "--to", "ldm", "--config", config, "--base", full)
    assert_same_outputs(model, ControlNetModel.from_pretrained(out))
    config_json = str(tmp_path / "control.json")
    for file in (control, whole, out / WEIGHTS):
        theirs = ControlNetModel.from_single_file(str(file), config=config_json, local_files_only=True)
        assert_same_outputs(model, theirs)


@torch.no_grad()
@pytest.mark.parametrize("style", ["15", "21"])
def test_diffusers_builds_unet_and_autoencoder_from_the_yaml_beside_a_full_checkpoint(tmp_path, style):
    config = config_of(style, tmp_path)
    full = save_weights(full_weights(config), tmp_path / "full.ckpt")
    run(full, tmp_path / "whole.safetensors", "--to", "ldm", "--config", config)
    model = load_model(config, full, device="cpu")
    file, yaml = str(tmp_path / "whole.safetensors"), str(tmp_path / "whole.yaml")
    x, _, t, context = inputs(model)
    unet = UNet2DConditionModel.from_single_file(file, original_config=yaml, local_files_only=True).eval()
    assert_close(model.model.diffusion_model(x, t, context), unet(x, t, context).sample)
    vae = AutoencoderKL.from_single_file(file, original_config=yaml, local_files_only=True).eval()
    assert vae.config.scaling_factor == model.scale_factor
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    assert_close(model.first_stage_model.encode(image).mode(), vae.encode(image).latent_dist.mode())


@pytest.mark.parametrize("style", STYLES)
def test_the_round_trip_through_all_shapes_is_exact(tmp_path, style):
    config = config_of(style, tmp_path)
    weights = full_weights(config)
    mixed = {
        n: t.half() if n.endswith("proj_in.weight") else t.bfloat16() if ".emb" in n else t for n, t in weights.items()
    }
    first = save_weights(mixed, tmp_path / "first.ckpt")
    base = save_weights(base_of(mixed), tmp_path / "base.safetensors")
    steps = [
        ("a", "diffusers"),
        ("b.pth", "control"),
        ("c", "diffusers"),
        ("d.safetensors", "ldm"),
        ("e.pth", "control"),
    ]
    steps += [("f.ckpt", "ldm"), ("g.ckpt", "ldm")]
    last = first
    for name, to in steps:
        run(last, tmp_path / name, "--to", to, "--config", config, *(("--base", base) if to == "ldm" else ()))
        last = tmp_path / name
    for name in ("d.safetensors", "g.ckpt"):
        made = read_weights(tmp_path / name)
        assert_same(made, mixed, frozenset({POSITION_IDS}))
        assert all(made[n].dtype == t.dtype for n, t in mixed.items())
    for name in ("b.pth", "e.pth"):
        assert_same(torch.load(tmp_path / name, weights_only=True), control_of(mixed))
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "c" / WEIGHTS).read_bytes()


def test_what_is_written_and_what_is_said(folder, config, weights, capsys):
    run("full.safetensors", "c.pth", "--to", "control", "--config", config)
    run("c.pth", "w.ckpt", "--to", "ldm", "--config", config, "--base", "base.ckpt")
    run("c.pth", "d", "--to", "diffusers", "--config", config)
    given = ["base.ckpt", "full.safetensors"]
    made = ["c.json", "c.pth", "c.yaml", "d", "w.ckpt", "w.yaml"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(given + made)
    assert sorted(path.name for path in Path("d").iterdir()) == ["config.json", WEIGHTS]
    assert Path("c.yaml").read_text() == Path("w.yaml").read_text() == config.read_text()
    assert json.loads(Path("c.json").read_text()) == json.loads(Path("d/config.json").read_text())
    assert POSITION_IDS in read_weights("w.ckpt")
    report = capsys.readouterr().out
    assert "full.safetensors: another model (prompt tokens of width 16)" in report
    assert "wrote c.pth (0.00 GB)\nwrote c.yaml\nwrote c.json\n" in report
    assert f"wrote d/{WEIGHTS} (0.00 GB)\nwrote d/config.json\n" in report
    assert_same(load_model("w.yaml", "w.ckpt", device="cpu").state_dict(), weights)


def test_half_is_an_option_that_spares_the_schedule(folder, config, weights):
    for name, to in (("d", "diffusers"), ("c.pth", "control"), ("w.safetensors", "ldm")):
        run("full.safetensors", name, "--to", to, "--config", config, "--half")
    whole = read_weights("w.safetensors")
    assert whole["betas"].dtype == torch.float32
    assert torch.equal(whole["betas"], weights["betas"])
    name = "time_embed.0.weight"
    assert torch.equal(whole[CONTROL + name], weights[CONTROL + name].half())
    assert torch.equal(read_weights("c.pth")[CONTROL + name], whole[CONTROL + name])
    assert torch.equal(read_weights("d")["time_embedding.linear_1.weight"], whole[CONTROL + name])


def test_a_decoder_that_was_trained_with_it_is_kept_where_there_is_a_place(folder, config, weights, capsys):
    decoder = {n: t + 1 for n, t in weights.items() if n.startswith(("model.diffusion_model.out",))}
    save_weights({**control_of(weights), **decoder}, "tuned.safetensors")
    run("tuned.safetensors", "c.pth", "--to", "control", "--config", config)
    run("c.pth", "w.pth", "--to", "ldm", "--config", config, "--base", "base.ckpt")
    assert_same(read_weights("c.pth"), {**control_of(weights), **decoder})
    assert_same(read_weights("w.pth"), {**weights, **decoder}, frozenset({POSITION_IDS}))
    assert "left out" not in capsys.readouterr().out
    run("c.pth", "d", "--to", "diffusers", "--config", config)
    assert f"left out: the decoder that was trained with it ({len(decoder)} tensors)" in capsys.readouterr().out


def test_of_a_whole_file_the_trained_decoder_is_kept_or_said_as_of_the_control_alone(folder, config, weights, capsys):
    decoder = {n: t + 1 for n, t in weights.items() if n.startswith("model.diffusion_model.out")}
    save_weights({**weights, **decoder}, "model_000100.safetensors", {"settings": json.dumps({"sd_locked": False})})
    run("model_000100.safetensors", "c.pth", "--to", "control", "--config", config)
    assert_same(read_weights("c.pth"), {**control_of(weights), **decoder})
    run("model_000100.safetensors", "w.pth", "--to", "ldm", "--config", config, "--base", "base.ckpt")
    assert_same(read_weights("w.pth"), {**weights, **decoder}, frozenset({POSITION_IDS}))
    run("model_000100.safetensors", "d", "--to", "diffusers", "--config", config)
    assert f"left out: the decoder that was trained with it ({len(decoder)} tensors)" in capsys.readouterr().out


def test_whether_outputs_are_averaged_goes_with_a_controlnet_through_all_shapes(folder, config, weights, capsys):
    save_weights(control_of(weights), "shuffle.pth")
    told = OmegaConf.load(config)
    told.model.params.global_average_pooling = True
    OmegaConf.save(told, "shuffle.yaml")
    run("shuffle.pth", "d", "--to", "diffusers", "--config", config)
    assert ControlNetModel.from_pretrained("d").config.global_pool_conditions
    run("d", "c.safetensors", "--to", "control", "--config", config)
    assert OmegaConf.load("c.yaml") == told
    assert json.loads(Path("c.json").read_text()) == json.loads(Path("d/config.json").read_text())
    run("c.safetensors", "w.ckpt", "--to", "ldm", "--config", config, "--base", "base.ckpt")
    assert load_model("w.yaml", "w.ckpt", device="cpu").control_model.global_average_pooling
    assert "shuffle.pth seems to be" not in capsys.readouterr().out
    Path("shuffle.yaml").rename("pooled.yaml")
    run("shuffle.pth", "e", "--to", "diffusers", "--config", "pooled.yaml")
    assert "global_pool_conditions" in Path("e/config.json").read_text()
    assert "seems to be" not in capsys.readouterr().out
    run("shuffle.pth", "f", "--to", "diffusers", "--config", config)
    assert "shuffle.pth seems to be a ControlNet of the kind shuffle" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing.pth", "o.pth", "--to", "control"), "no file nothing.pth"),
        (
            (".", "o.pth", "--to", "control"),
            "no file of weights in the folder .: expected one of diffusion_pytorch_model.safetensors",
        ),
        (("full.safetensors", "o.pth", "--to", "control"), "of width 16); name its yaml with --config"),
        (("full.safetensors", "o", "--to", "ldm"), "ends in .safetensors, .ckpt, .pth or .pt to save to, got o"),
        (("full.safetensors", "o.pth", "--to", "diffusers"), "expected the name of a folder to make, got o.pth"),
        (("full.safetensors", "base.ckpt", "--to", "ldm"), "base.ckpt exists and is not overwritten"),
        (("full.safetensors", "taken.pth", "--to", "ldm"), "taken.yaml exists and is not overwritten"),
        (("full.safetensors", "noted.pth", "--to", "control"), "noted.json exists and is not overwritten"),
        (("full.safetensors", "empty", "--to", "diffusers"), "empty exists and is not overwritten"),
        (("full.safetensors", "no/o", "--to", "diffusers"), "no folder no to make o in"),
        (("c.pth", "o.pth", "--to", "ldm", "--config", "tiny"), "give the Stable Diffusion to put it onto with --base"),
        (("base.ckpt", "o.pth", "--to", "control", "--config", "tiny"), "base.ckpt has no known shape of ControlNet"),
        (("base.ckpt", "o.pth", "--to", "ldm", "--config", "tiny"), "It has no ControlNet"),
        (("c.pth", "o.pth", "--to", "control", "--config", "sd15"), "describes Stable Diffusion 1"),
        (("c.pth", "o.pth", "--to", "control", "--config", "no.yaml"), "no config no.yaml"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(folder, config, weights, arguments, message):
    save_weights(control_of(weights), "c.pth")
    for name in ("taken.yaml", "noted.json"):
        Path(name).write_text("precious")
    Path("empty").mkdir()
    configs = {"tiny": config, "sd15": ROOT / "models/cldm_v15.yaml"}
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        run(*(configs.get(argument, argument) for argument in arguments))
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert sorted(folder.rglob("*")) == before
    assert Path("taken.yaml").read_text() == Path("noted.json").read_text() == "precious"


def test_a_full_file_of_another_version_than_the_base_is_refused(folder, config, tmp_path):
    other = HandedOver(full_weights(tiny_config(tmp_path, context_dim=24)), "other")
    save_weights(other, "other.pth")
    with pytest.raises(SystemExit, match=r"other\.pth has weights of another model .*of width 24"):
        run("full.safetensors", "o.pth", "--to", "ldm", "--config", config, "--base", "other.pth")
