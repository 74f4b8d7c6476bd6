"""Get published checkpoints of detectors and models to where the project looks for them.

python tool_download.py hed openpose        those two
python tool_download.py detectors           all that detectors need, about 1.1 GB
python tool_download.py --list              every name, its size and where it comes from

Interrupt it when you like: the same command goes on where it was. Set HF_ENDPOINT to use a mirror of the hub.
"""

import argparse
import sys
from pathlib import Path

from annotator.download import download
from annotator.manifest import DETECTOR_FILES, FILES, MODEL_FILES

ROOT = Path(__file__).resolve().parent
GROUPS = {"all": FILES, "detectors": DETECTOR_FILES, "models": MODEL_FILES}


def main() -> None:
    given = _parser().parse_args()
    if given.list or not given.names:
        print(listing())
        return
    names = wanted(given.names)
    if len(names) > 1:
        print(f"{len(names)} files, {sum(FILES[name].megabytes for name in names) / 1000:.1f} GB in all")
    failed = 0
    for name in names:
        entry = FILES[name]
        folder = given.to or ROOT / entry.folder
        try:
            print(f"{name}: {download(entry, folder, given.replace)}", flush=True)
        except OSError as error:
            failed += 1
            print(f"error: {name}: {error}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            raise SystemExit("\nStopped; the same command goes on from here.") from None
    if failed:
        raise SystemExit(f"{failed} of {len(names)} not downloaded")


def wanted(names: list[str]) -> list[str]:
    """The names of files that names of files and groups stand for, each once."""
    return list(dict.fromkeys(file for name in names for file in GROUPS.get(name, (name,))))


def listing() -> str:
    """A line for each file."""
    lines = [f"{'NAME':24} {'MB':>5}  FILE, SOURCES"]
    for name, entry in FILES.items():
        sources = ", ".join(source.repository for source in entry.sources)
        lines.append(f"{name:24} {entry.megabytes:5.0f}  {entry.folder}/{entry.file}, {sources}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", type=_name, help=f"of a file, or {', '.join(GROUPS)}")
    parser.add_argument("--list", action="store_true", help="show the names")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="by default annotator/ckpts or models of the project")
    parser.add_argument("--replace", action="store_true", help="download again what is there")
    return parser


def _name(text: str) -> str:
    if text not in FILES and text not in GROUPS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join([*GROUPS, *FILES])}, got {text!r}")
    return text


if __name__ == "__main__":
    main()
