"""Make a dataset like Fill50K, for where the published one cannot be downloaded. Run with --help for options.

Interrupt it when you like: the same command goes on where it was. The same seed gives the same files.
"""

import argparse
from pathlib import Path

from cldm.fill50k import make_fill50k


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000, help="pairs of images")
    parser.add_argument("--size", type=int, default=512, help="side of the images in pixels, a multiple of 64")
    parser.add_argument("--seed", type=int, default=0, help="of all chance")
    parser.add_argument("--output", type=Path, default=Path("training/fill50k"), help="folder, new or to go on with")
    parser.add_argument("--workers", type=int, help="processes; None is one for each core")
    parser.add_argument(
        "--exclude-held-out",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave out one combination of colours in 16: those that the miniature is evaluated on",
    )
    given = parser.parse_args()
    try:
        file = make_fill50k(**vars(given))
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(f"\nStopped; the same command goes on where {given.output} was left.") from None
    print(f"{file}: {given.count} rows. To look at it: python tutorial_dataset.py {given.output}")


if __name__ == "__main__":
    main()
