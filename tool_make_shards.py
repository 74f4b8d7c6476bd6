"""Pack a dataset into WebDataset shards, for training from a server or from many machines. Run with --help for options.

    python tool_make_shards.py training/fill50k training/fill50k_shards
    python tool_make_shards.py 'https://example.org/data/shard-{00000..00099}.tar' index.json

The second form only counts the samples of shards that are there, and writes their index. Interrupt the first when you
like: the same command goes on where it was.
"""

import argparse
from pathlib import Path

from cldm.data.make_shards import index_shards, make_shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder with prompt.json, or shards: their folder, index, or names with braces")
    parser.add_argument("output", type=Path, help="folder of the shards, new or to go on with; or an index.json")
    parser.add_argument("--samples", type=int, default=1000, help="in a shard; default: 1000")
    parser.add_argument("--seed", type=int, default=0, help="of the order of a folder's rows in the shards; default: 0")
    parser.add_argument("--keep-order", action="store_true", help="do not shuffle a folder's rows")
    given = parser.parse_args()
    try:
        if given.output.suffix == ".json":
            index = index_shards(given.dataset, given.output)
        else:
            seed = None if given.keep_order else given.seed
            index = make_shards(given.dataset, given.output, given.samples, seed)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(f"\nStopped; the same command goes on where {given.output} was left.") from None
    print(f"{index} is written. To check the shards: python tutorial_dataset.py {index.parent}")


if __name__ == "__main__":
    main()
