"""What generations run on, and the flags that say so."""

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """What an app runs on.

    Attributes:
        checkpoints: The user's weights, files or diffusers' folders; none for the best there are, see
            `cldm.model_files.find_model`.
        config: The user's yaml.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32, bfloat16 or float16.
        save_memory: Whether what is not in use leaves the accelerator.
        compile: Whether the networks are compiled at their first use.
        detector: The detector's weights, a file or folder; None is `annotator/ckpts/`.
    """

    checkpoints: tuple[str, ...] = ()
    config: str | None = None
    device: str = "auto"
    precision: str = "auto"
    save_memory: bool = False
    compile: bool = False
    detector: str | None = None

    @classmethod
    def of(cls, flags: argparse.Namespace) -> "Machine":
        """As the flags of `add_machine_flags` and --device say; what is not said is as above."""
        return cls(
            checkpoints=tuple(flags.checkpoint),
            config=flags.config,
            device=flags.device or "auto",
            precision=flags.precision or "auto",
            save_memory=flags.save_memory,
            compile=flags.compile,
            detector=getattr(flags, "detector", None),
        )


def add_machine_flags(parser: argparse.ArgumentParser, published: str, again: str = "", detector: bool = True) -> None:
    """Add the flags of a `Machine`, its device aside.

    Args:
        parser: To add to.
        published: Name of the weights that are taken by default, without suffix.
        again: What stands in the help where an image made again has a default of its own.
        detector: Whether there is one that has weights.
    """
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        default=[],
        metavar="FILE",
        help="weights: one file with everything, or a Stable Diffusion and a ControlNet, which may be diffusers' "
        f"folder; by default models/{published}, or else the bundled miniature{again}",
    )
    parser.add_argument(
        "--config",
        metavar="YAML",
        help="architecture; by default models/cldm_v21.yaml, of Stable Diffusion 2.1 at 512 pixels, if the name of a "
        f"--checkpoint has sd21 in it, else that of 1.5; see docs/generate.md for 2.1 at 768 pixels{again}",
    )
    parser.add_argument(
        "--precision",
        choices=["auto", "float32", "bfloat16", "float16"],
        help=f"of the networks; auto, the default, is float16 on CUDA and float32 elsewhere{again}",
    )
    if detector:
        parser.add_argument(
            "--detector",
            metavar="FILE",
            help="the detector's weights, a file or its folder; by default annotator/ckpts",
        )
    parser.add_argument(
        "--save-memory",
        action="store_true",
        help=f"what is not in use leaves the accelerator, and images are decoded in strips{again}",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help=f"compile the networks at their first use, which takes minutes and needs a C++ compiler{again}",
    )
