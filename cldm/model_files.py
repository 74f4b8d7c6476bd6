"""Which configuration and weights to generate with: the user's, the published ones, or the bundled miniature."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cldm.settings import Settings
from cldm.weights.folders import weights_file

_PUBLISHED_SETTINGS = Settings()
MODELS = Path(__file__).resolve().parent.parent / "models"
CONTROLS = ("canny", "depth", "hed", "mlsd", "normal", "openpose", "scribble", "seg")
"""Kinds of control maps, as published files name them."""
APPS = {kind: kind for kind in CONTROLS} | {"mlsd": "hough", "openpose": "pose"}
"""What the scripts are named after, by the kind of control."""
APPS_NAMES = {app: kind for kind, app in APPS.items() if app != kind}
APPS_NAMES |= {"fake_scribble": "scribble", "scribble_interactive": "scribble"}
"""Of apps that are named otherwise than the file that they take."""
MINIATURE_SCALE = 2.0  # guidance scale; Stable Diffusion's 9 oversaturates the miniature's colours
MINIATURE_SETTINGS = Settings(scale=MINIATURE_SCALE, added_prompt="", negative_prompt="")
"""The miniature has read nothing but captions of shapes, so it is told nothing about quality."""
_MINIATURE_BELOW = 256  # pixels; Stable Diffusion is trained on 512 and more
_PIXELS_PER_LATENT = 8
_LATENT_SIDE = 64  # a config's image_size where it names none, Stable Diffusion's


@dataclass(frozen=True)
class ModelFiles:
    """Files that make up one model, and what it is best used with.

    Attributes:
        config: yaml file of the architecture.
        checkpoints: Files of weights; of several, each adds to those before it.
        resolution: Side in pixels of the images that the model was trained on.
        settings: Defaults for this model.
        notice: What the user should know about it, Markdown; empty where there is nothing to say.
    """

    config: Path
    checkpoints: tuple[Path, ...]
    resolution: int = 512
    settings: Settings = _PUBLISHED_SETTINGS
    notice: str = ""


def find_model(
    control: str,
    checkpoints: Sequence[str | Path] = (),
    config: str | Path | None = None,
    folder: Path = MODELS,
) -> ModelFiles:
    """The files that the user names, or else those of the best model there is in `folder`.

    Args:
        control: Kind of control map as published files name it, such as "mlsd", or its app's name, "hough"; of another
            kind if `folder` has a whole model of that name, `control_sd15_NAME.safetensors`.
        checkpoints: The user's: a full checkpoint, or a base and a ControlNet; of a folder in diffusers' layout, the
            weights in it are taken.
        config: The user's; by default Stable Diffusion 1.5's, or 2.1's where a checkpoint has sd21 in its name.
        folder: Where the models are.

    Raises:
        FileNotFoundError: If there is no such file, or no model for this control at all.
        ValueError: If the control is unknown, or there is a config without checkpoints, or it is no configuration of a
            model.
    """
    if checkpoints:
        return _named(tuple(map(Path, checkpoints)), config, folder)
    if config is not None:
        raise ValueError(f"expected checkpoints together with the config, got {str(config)!r} alone")
    control = APPS_NAMES.get(control, control)
    for suffix in (".safetensors", ".pth", ".ckpt"):
        published = folder / f"control_sd15_{control}{suffix}"
        if published.is_file():
            return ModelFiles(folder / "cldm_v15.yaml", (published,))
    if control not in CONTROLS and not (folder / f"control_mini_{control}.safetensors").is_file():
        raise ValueError(
            f"control must be one of {', '.join(sorted({*CONTROLS, *APPS_NAMES}))}, got {control!r}; for another kind, "
            f"put a whole model into {folder} as control_sd15_{control}.safetensors, or name checkpoints"
        )
    return _miniature(control, folder)


def how_to_get(control: str, folder: Path = MODELS) -> str:
    """What to put where for full-size images of this control, Markdown."""
    file = f"control_sd15_{control}.pth"
    return (
        "For photographs and paintings at 512 pixels, run "
        f"`python tool_download.py {file.removesuffix('.pth')}`, or put `{file}` (5.7 GB, from models/ of "
        f"https://huggingface.co/lllyasviel/ControlNet) into `{folder.name}/`, and start again; or name other files "
        "with `--checkpoint` and `--config`."
    )


def _miniature(control: str, folder: Path) -> ModelFiles:
    files = (folder / "sd_mini.safetensors", _miniature_control(control, folder))
    config = folder / "cldm_mini.yaml"
    missing = [file for file in (config, *files) if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"no model for {control} in {folder}: neither control_sd15_{control}.safetensors, .pth or .ckpt nor the "
            f"bundled miniature ({', '.join(file.name for file in missing)} missing). {how_to_get(control, folder)}"
        )
    notice = (
        "**Running on the bundled miniature**: it draws coloured shapes of 128 pixels from prompts such as "
        f"“light coral star with navy background”. {how_to_get(control, folder)}"
    )
    return ModelFiles(config, files, _resolution(config), MINIATURE_SETTINGS, notice)


def _miniature_control(control: str, folder: Path) -> Path:
    """One file follows maps of every kind; one of a single kind is taken where it is all there is."""
    of_all = folder / "control_mini.safetensors"
    if of_all.is_file():
        return of_all
    of_this = folder / f"control_mini_{control}.safetensors"
    return next(
        (file for file in (of_this, *sorted(folder.glob("control_mini_*.safetensors"))) if file.is_file()), of_all
    )


def _named(checkpoints: tuple[Path, ...], config: str | Path | None, folder: Path) -> ModelFiles:
    if config is None:
        version = "v21" if any("sd21" in c.name.lower() for c in checkpoints) else "v15"
        config = folder / f"cldm_{version}.yaml"
    config = Path(config).expanduser()
    checkpoints = tuple(map(weights_file, checkpoints))
    for file in (config, *checkpoints):
        if not file.is_file():
            raise FileNotFoundError(f"no file at {file}; give the path of an existing one")
    resolution = _resolution(config)
    settings = MINIATURE_SETTINGS if resolution < _MINIATURE_BELOW else _PUBLISHED_SETTINGS
    return ModelFiles(config, checkpoints, resolution, settings)


def _resolution(config: Path) -> int:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        params = OmegaConf.load(config).model.params
        return _PIXELS_PER_LATENT * int(params.get("image_size", _LATENT_SIDE))
    except (AttributeError, TypeError, ValueError, YAMLError) as error:
        raise ValueError(f"{config} is no configuration of a model, expected model.target and model.params") from error
