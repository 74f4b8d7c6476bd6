"""Which model an app runs on: the user's, the published one, or the miniature."""

from importlib import import_module
from pathlib import Path

import pytest

from annotator.manifest import MODEL_FILES
from cldm.model_files import APPS_NAMES, CONTROLS, MINIATURE_SETTINGS, MODELS, find_model
from cldm.settings import Settings


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder with the configs and, for canny, everything else as empty files."""
    for config in MODELS.glob("*.yaml"):
        (tmp_path / config.name).write_text(config.read_text())
    for name in ("sd_mini.safetensors", "control_mini_canny.safetensors", "control_sd15_canny.pth"):
        (tmp_path / name).touch()
    return tmp_path


def test_the_published_model_is_the_first_choice(models):
    files = find_model("canny", folder=models)
    assert (files.config, files.checkpoints) == (models / "cldm_v15.yaml", (models / "control_sd15_canny.pth",))
    assert (files.resolution, files.settings, files.notice) == (512, Settings(), "")
    (models / "control_sd15_canny.safetensors").touch()
    assert find_model("canny", folder=models).checkpoints == (models / "control_sd15_canny.safetensors",)


def test_else_the_miniature_which_says_so(models):
    (models / "control_sd15_canny.pth").unlink()
    files = find_model("canny", folder=models)
    assert files.config == models / "cldm_mini.yaml"
    assert files.checkpoints == (models / "sd_mini.safetensors", models / "control_mini_canny.safetensors")
    assert (files.resolution, files.settings) == (128, MINIATURE_SETTINGS)
    assert "bundled miniature" in files.notice
    assert "`python tool_download.py control_sd15_canny`" in files.notice
    assert "put `control_sd15_canny.pth` (5.7 GB" in files.notice
    assert f"into `{models.name}/`" in files.notice


def test_one_miniature_for_all_kinds_comes_before_those_of_a_kind(models):
    assert find_model("hed", folder=models).checkpoints[1] == models / "control_mini_canny.safetensors"
    (models / "control_mini_hed.safetensors").touch()
    assert find_model("hed", folder=models).checkpoints[1] == models / "control_mini_hed.safetensors"
    (models / "control_mini.safetensors").touch()
    assert find_model("hed", folder=models).checkpoints[1] == models / "control_mini.safetensors"


def test_the_apps_names_are_those_of_the_files_they_take(models):
    for name in ("control_sd15_mlsd.pth", "control_sd15_scribble.pth"):
        (models / name).touch()
    assert find_model("hough", folder=models) == find_model("mlsd", folder=models)
    assert find_model("hough", folder=models).checkpoints == (models / "control_sd15_mlsd.pth",)
    assert find_model("fake_scribble", folder=models).checkpoints == (models / "control_sd15_scribble.pth",)
    assert "`python tool_download.py control_sd15_openpose`" in find_model("pose", folder=models).notice


def test_the_names_are_the_manifests_and_the_apps():
    assert {f"control_sd15_{control}" for control in CONTROLS} == {name for name in MODEL_FILES if "control" in name}
    root = MODELS.parent
    apps = {path.stem.removeprefix("gradio_").removesuffix("2image") for path in root.glob("gradio_*2image.py")}
    taken = {name: import_module(f"gradio_{name}2image").demo.control for name in apps}
    assert {name: control for name, control in taken.items() if name != control} == APPS_NAMES


def test_an_unknown_kind_is_an_error_unless_it_has_a_model(models):
    with pytest.raises(
        ValueError, match=r"one of canny, depth, .*hough.*, got 'poses'.*control_sd15_poses.safetensors"
    ):
        find_model("poses", folder=models)
    (models / "control_sd15_poses.safetensors").touch()
    assert find_model("poses", folder=models).checkpoints == (models / "control_sd15_poses.safetensors",)


def test_else_an_error_that_says_what_to_put_where(models):
    (models / "control_mini_canny.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"\(control_mini.safetensors missing\).*control_sd15_hed.pth"):
        find_model("hed", folder=models)


def test_the_users_files_come_before_all(models):
    mine = models / "mine.safetensors"
    mine.touch()
    assert find_model("canny", [mine], folder=models).config == models / "cldm_v15.yaml"
    files = find_model("canny", [str(mine)], models / "cldm_mini.yaml")
    assert (files.checkpoints, files.resolution, files.settings) == ((mine,), 128, MINIATURE_SETTINGS)
    assert files.notice == ""
    newer = models / "control_SD21_canny.pth"
    newer.touch()
    assert find_model("canny", [newer], folder=models).config == models / "cldm_v21.yaml"


def test_of_a_folder_the_weights_in_it_are_taken(models):
    base, folder = models / "sd_mini.safetensors", models / "control-sd21-canny"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=f"no file of weights in the folder {folder}"):
        find_model("canny", [base, folder], folder=models)
    (folder / "diffusion_pytorch_model.safetensors").touch()
    files = find_model("canny", [str(base), f"{folder}/"], folder=models)
    assert files.checkpoints == (base, folder / "diffusion_pytorch_model.safetensors")
    assert files.config == models / "cldm_v21.yaml"


def test_what_the_user_names_must_be_there_and_be_a_config(models):
    with pytest.raises(FileNotFoundError, match=r"no file at .*absent.pth; give the path of an existing one"):
        find_model("canny", [models / "absent.pth"], folder=models)
    with pytest.raises(FileNotFoundError, match=r"no file at .*absent.yaml"):
        find_model("canny", [models / "sd_mini.safetensors"], models / "absent.yaml")
    with pytest.raises(ValueError, match="expected checkpoints together with the config"):
        find_model("canny", config=models / "cldm_mini.yaml")
    for text in ("", "a: [", "- a list", "model: 3", "model:\n  target: x"):
        (models / "other.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"other.yaml is no configuration of a model"):
            find_model("canny", [models / "sd_mini.safetensors"], models / "other.yaml")
