"""Where the weights of a model are that was published as a folder, in diffusers' layout."""

from pathlib import Path

_DIFFUSERS_FILES = tuple(
    f"diffusion_pytorch_model{variant}{suffix}" for variant in ("", ".fp16") for suffix in (".safetensors", ".bin")
)


def weights_file(path: str | Path) -> Path:
    """The file that a path stands for: itself, or of a folder of a diffusers model the file of weights in it.

    Args:
        path: `~` is the user's home. It may be missing, which is for the caller to say.

    Raises:
        FileNotFoundError: If it is a folder without weights, or with those of a Stable Diffusion or in shards.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return path
    for name in _DIFFUSERS_FILES:
        if (path / name).is_file():
            return path / name
    if (path / "model_index.json").is_file() or (path / "unet").is_dir():
        raise FileNotFoundError(f"{path} is a Stable Diffusion in diffusers' layout; give one that is a single file")
    if shards := sorted(path.glob("diffusion_pytorch_model*.index*.json")):
        raise FileNotFoundError(
            f"{path} has its weights in several files ({shards[0].name}), which are not read; join them with "
            'diffusers\' save_pretrained(FOLDER, max_shard_size="100GB")'
        )
    raise FileNotFoundError(
        f"no file of weights in the folder {path}: expected one of {', '.join(_DIFFUSERS_FILES)}; or name a file"
    )


def config_beside(file: Path) -> Path | None:
    """What says how a file of weights is used: diffusers' config.json in its folder, or a yaml of its name."""
    path = file.with_name("config.json") if file.name in _DIFFUSERS_FILES else file.with_suffix(".yaml")
    return path if path.is_file() else None


def telling_name(file: Path) -> str:
    """A file's name, with its folder's where the name is the one that diffusers gives to all weights."""
    file = file.absolute()
    return f"{file.parent.name}/{file.name}" if file.name in _DIFFUSERS_FILES else file.name
