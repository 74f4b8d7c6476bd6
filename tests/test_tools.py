"""The scripts that make checkpoints, run as a user runs them."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from checkpoints import CONTROL, POSITION_IDS, UNET, assert_same, base_of, control_of, full_weights, tiny_config
from cldm.model import load_model
from cldm.weights.reading import read_weights
from cldm.weights.saving import save_weights
from ldm.deferred import HandedOver

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def config(tmp_path_factory) -> Path:
    return tiny_config(tmp_path_factory.mktemp("tools"))


@pytest.fixture
def weights(config) -> HandedOver:
    return HandedOver(full_weights(config), "full")


@pytest.fixture
def folder(tmp_path, monkeypatch, weights) -> Path:
    """The current folder, with a base in it."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": base_of(weights), "global_step": 1}, "base.ckpt")
    return tmp_path


def run(script: str, *arguments: object) -> None:
    """Run a script of the project's root in this process."""
    sys.argv = [script, *map(str, arguments)]
    runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.fixture(autouse=True)
def _arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)


@pytest.mark.parametrize("output", ["ini.safetensors", "ini.ckpt", "ini.pth"])
def test_add_control_writes_a_file_to_train_from(folder, config, weights, output, capsys):
    run("tool_add_control.py", "base.ckpt", output, "--config", config)
    added = read_weights(output)
    assert_same(base_of(added), base_of(weights), frozenset({POSITION_IDS}))
    assert torch.equal(added[POSITION_IDS], torch.arange(77)[None])
    assert torch.equal(added[f"{CONTROL}time_embed.0.weight"], weights[f"{UNET}time_embed.0.weight"])
    assert not added[f"{CONTROL}zero_convs.0.0.weight"].any()
    model = load_model(config, output, device="cpu")
    assert model.state_dict().keys() == weights.keys()
    report = capsys.readouterr().out
    assert "base.ckpt: another model (prompt tokens of width 16)" in report
    assert "copied: " in report
    assert "new (random with seed 0, or zero): 26 (control_model.input_hint_block.0.weight, " in report
    assert f"missing, taken from the config: 1 ({POSITION_IDS})" in report
    assert "left out" not in report
    assert f"wrote {output} (0.0" in report
    assert sorted(path.name for path in folder.iterdir()) == sorted(["base.ckpt", output])


def test_half_seed_and_averaged_weights_are_options(folder, config, weights):
    base = base_of(weights)
    unet = {name: t for name, t in base.items() if name.startswith(UNET)}
    averages = {"model_ema." + name.removeprefix("model.").replace(".", ""): t + 1 for name, t in unet.items()}
    save_weights({**base, **averages}, "pruned.safetensors")
    run("tool_add_control.py", "pruned.safetensors", "a.pth", "--config", config, "--half", "--ema", "--seed", 7)
    run("tool_add_control.py", "pruned.safetensors", "b.pth", "--config", config)
    a, b = torch.load("a.pth", weights_only=True), torch.load("b.pth", weights_only=True)
    name = f"{UNET}time_embed.0.weight"
    assert torch.equal(a[name], (unet[name] + 1).half())
    assert torch.equal(b[name], unet[name])
    assert a["betas"].dtype == torch.float32
    assert not torch.equal(a[f"{CONTROL}input_hint_block.0.weight"].float(), b[f"{CONTROL}input_hint_block.0.weight"])


def test_transfer_control_takes_any_formats(folder, config, weights, capsys):
    new = base_of(full_weights(config, seed=1))
    save_weights(control_of(weights), "control.pth")
    save_weights(new, "new.safetensors")
    run(
        "tool_transfer_control.py", "base.ckpt", "control.pth", "new.safetensors", "out.safetensors", "--config", config
    )
    out = read_weights("out.safetensors")
    assert_same(base_of(out), new, frozenset({POSITION_IDS}))
    name = "time_embed.0.weight"
    expected = weights[f"{CONTROL}{name}"] + new[f"{UNET}{name}"] - weights[f"{UNET}{name}"]
    torch.testing.assert_close(out[f"{CONTROL}{name}"], expected)
    report = capsys.readouterr().out
    assert "copied from new.safetensors: " in report
    assert "moved by new.safetensors - base.ckpt: " in report
    assert "kept from control.pth: " in report
    run(
        "tool_transfer_control.py", "base.ckpt", "control.pth", "new.safetensors", "h.pth", "--config", config, "--half"
    )
    assert torch.equal(torch.load("h.pth")[f"{CONTROL}{name}"], out[f"{CONTROL}{name}"].half())


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("tool_add_control.py", ("nothing.ckpt", "out.pth"), "no file nothing.ckpt"),
        ("tool_add_control.py", ("base.ckpt", "base.ckpt"), "base.ckpt exists and is not overwritten"),
        ("tool_add_control.py", ("base.ckpt", "out.txt"), "ends in .safetensors, .ckpt, .pth or .pt"),
        ("tool_add_control.py", ("base.ckpt", "out.pth"), "describes Stable Diffusion 1 (prompt tokens of width 768)"),
        (
            "tool_add_control_sd21.py",
            ("base.ckpt", "o.pth"),
            "describes Stable Diffusion 2 (prompt tokens of width 1024)",
        ),
        ("tool_add_control.py", ("base.ckpt", "out.pth", "--config", "no.yaml"), "no config no.yaml"),
        ("tool_transfer_control.py", ("base.ckpt", "base.ckpt", "base.ckpt", "out.pth"), "of width 16"),
        ("tool_transfer_control.py", ("base.ckpt", "base.ckpt", "base.ckpt", "base.ckpt"), "is not overwritten"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_no_file(folder, script, arguments, message):
    before = (folder / "base.ckpt").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        run(script, *arguments)
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert [path.name for path in folder.iterdir()] == ["base.ckpt"]
    assert (folder / "base.ckpt").read_bytes() == before


@pytest.mark.parametrize(
    "script", ["tool_add_control.py", "tool_add_control_sd21.py", "tool_convert.py", "tool_transfer_control.py"]
)
def test_help_is_given_from_any_folder(tmp_path, script):
    done = subprocess.run([sys.executable, ROOT / script, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "OUT" in done.stdout
    assert "--half" in done.stdout


def test_the_miniature_gets_a_controlnet(tmp_path):
    config, out = ROOT / "models/cldm_mini.yaml", tmp_path / "mini.ckpt"
    base = save_weights(base_of(full_weights(config)), tmp_path / "sd_mini.safetensors")
    run("tool_add_control.py", base, out, "--config", config)
    assert load_model(config, out, device="cpu").control_model.num_connections == 7
