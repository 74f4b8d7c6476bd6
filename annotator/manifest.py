"""The detectors' published files: what to ask for, how large it is, and where it is published.

Plain data: `annotator.util.find_checkpoint` words its errors from it, downloads follow it.
"""

from typing import NamedTuple


class Source(NamedTuple):
    """A file in a hub repository."""

    repository: str
    path: str


class CheckpointFile(NamedTuple):
    """One published file.

    Attributes:
        file: Its name in `annotator/ckpts/`.
        megabytes: About how much there is to download, for people (10**6 bytes).
        sources: Where it is published, the first choice first.
        size: Exact size in bytes; None where it is not known for sure.
        sha256: Leading hexadecimal digits of its SHA-256, as many as are known for sure.
    """

    file: str
    megabytes: float
    sources: tuple[Source, ...]
    size: int | None = None
    sha256: str = ""


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
    "openpose_hand": CheckpointFile("hand_pose_model.pth", 147, _in_both("hand_pose_model.pth")),
    "uniformer": CheckpointFile("upernet_global_small.pth", 206, _in_both("upernet_global_small.pth")),
}
"""Name for `tool_download.py` -> file."""
