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
        FileNotFoundError: If it is a folder without weights.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return path
    for name in _DIFFUSERS_FILES:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(
        f"no file of weights in the folder {path}: expected one of {', '.join(_DIFFUSERS_FILES)}; or name a file"
    )


def telling_name(file: Path) -> str:
    """A file's name, with its folder's where the name is the one that diffusers gives to all weights."""
    file = file.absolute()
    return f"{file.parent.name}/{file.name}" if file.name in _DIFFUSERS_FILES else file.name
