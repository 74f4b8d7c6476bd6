"""The dataset of the training tutorial: Fill50K, or one of your own in its format, as a folder or as shards.

`python tutorial_dataset.py [path]` checks it: counts the samples, shows one item, draws a contact sheet, lists every
bad sample and then exits with 1. Do this before training on pictures of your own.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from cldm.data import Framing, Sample, find_dataset, parse_size, read_hint_alone, read_pair, read_rows, unit_range
from cldm.data.framing import HINT_RESAMPLING, WAYS
from cldm.data.order import Shuffle
from cldm.data.pairs import AS_THEY_ARE
from cldm.data.sharded import DEFAULT_SHUFFLE, ShardedDataset
from cldm.data.shards import is_shards
from cldm.data_check import Report, check_dataset, check_shards, contact_sheet


class MyDataset(Dataset):
    """Items of a folder with `prompt.json`, as ControlLDM trains on them.

    Args:
        path: The folder; published and self-made datasets, and one unpacked a folder deeper, all do.
        framing: How images come into the size that is trained; by default they must have it.
        hint_channels: The model's; None takes as many as the control maps have.
        images: False for items without `jpg`, whose files are not decoded then.

    Raises:
        FileNotFoundError: If there is no dataset, with the commands that make one.
        DataError: If a row is malformed.
    """

    def __init__(
        self,
        path: str | Path = "./training/fill50k",
        framing: Framing = AS_THEY_ARE,
        hint_channels: int | None = None,
        images: bool = True,
    ):
        self.rows = read_rows(find_dataset(path))
        self.framing = framing
        self.hint_channels = hint_channels
        self.images = images

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray | str]:
        return load_item(self.rows[index], self.framing, self.hint_channels, self.images)

    def name_of(self, index: int) -> str:
        """Which row an index is, for errors."""
        return f"{self.rows[index]} ({self.rows[index].target})"


def load_item(
    sample: Sample, framing: Framing = AS_THEY_ARE, hint_channels: int | None = None, image: bool = True
) -> dict[str, np.ndarray | str]:
    """What the model learns from one row of a folder, or one sample of a shard; from a cache, without its image.

    Returns:
        `jpg`, the image to make, float32 RGB (h, w, 3) in [-1, 1]; `hint`, the control map that leads to it,
        float32 (h, w, c) in [0, 1], RGB if it is one image; `txt`, the prompt.

    Raises:
        FileNotFoundError: If an image is missing.
        DataError: If an image cannot be used. Either names the sample.
    """
    if not image:
        return {"hint": unit_range(read_hint_alone(sample, framing, hint_channels)), "txt": sample.prompt}
    source, target = read_pair(sample, framing, hint_channels)
    jpg = target.astype(np.float32) / 127.5 - 1
    return {"jpg": jpg, "hint": unit_range(source), "txt": sample.prompt}


def open_dataset(
    path: str | Path,
    framing: Framing = AS_THEY_ARE,
    hint_channels: int | None = None,
    shuffle: Shuffle = DEFAULT_SHUFFLE,
) -> MyDataset | ShardedDataset:
    """The dataset of a folder, or of shards (see `cldm.data.shards`), whose samples are mixed by `shuffle`."""
    if is_shards(path):
        return ShardedDataset(path, partial(load_item, framing=framing, hint_channels=hint_channels), shuffle)
    return MyDataset(path, framing, hint_channels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", default="./training/fill50k", help="default: ./training/fill50k")
    parser.add_argument("--size", default="", help="as training's setting: 512 or WIDTHxHEIGHT")
    parser.add_argument("--framing", choices=WAYS, default="resize", help="as training's setting; default: resize")
    parser.add_argument("--hint-resampling", choices=HINT_RESAMPLING, default="smooth", help="as training's setting")
    parser.add_argument("--hint-channels", type=int, help="of the model's yaml; default: any")
    parser.add_argument("--sheet", type=Path, help="file of the contact sheet; default: contact_sheet.png beside it")
    parser.add_argument("--overwrite", action="store_true", help="replace a contact sheet that is there")
    given = parser.parse_args()
    try:
        framing = Framing(parse_size(given.size), given.framing, given.hint_resampling)
        shards = is_shards(given.path)
        path = given.path if shards else find_dataset(given.path)
        report = (check_shards if shards else check_dataset)(path, None, framing, given.hint_channels)
        trained_as = (framing, given.hint_channels)
        print_report(path, report, *trained_as)
        if report.good:
            sheet = given.sheet or _beside(path) / "contact_sheet.png"
            save_sheet(report, sheet, given.overwrite, *trained_as)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    sys.exit(1 if report.bad or not report.count else 0)


def _beside(path: str | Path) -> Path:
    """The folder of a dataset; the current one for a dataset that is elsewhere."""
    path = Path(path)
    if path.is_dir():
        return path
    return path.parent if path.parent.is_dir() else Path()


def print_report(
    path: str | Path, report: Report, framing: Framing = AS_THEY_ARE, hint_channels: int | None = None
) -> None:
    """The bad samples, one good item, and the counts."""
    for bad in report.bad:
        print(bad)
    what = "samples" if is_shards(path) else "rows"
    print(f"{path}: {report.count + len(report.bad)} {what}, {len(report.bad)} of them bad")
    sizes = [f"{count} of {width}x{height}" for (width, height), count in report.sizes.most_common(4)]
    print(f"sizes: {', '.join(sizes)}{', ...' * (len(report.sizes) > 4)}")
    if len(report.sizes) > 1:
        print("Only images of one size fit into one batch: train with batch_size=1, or with size=512 framing=crop.")
    if len(report.channels) > 1:
        counts = ", ".join(f"{count} of {channels}" for channels, count in report.channels.most_common())
        print(
            f"Hints have different numbers of channels ({counts}), but a model takes one: --hint-channels finds them."
        )
    if report.good:
        item = load_item(report.good[0], framing, hint_channels)
        for name in ("jpg", "hint"):
            values = item[name]
            print(f"{name}: {values.shape} {values.dtype}, {values.min():.2f} to {values.max():.2f}")
        print(f"txt: {item['txt']}")


def save_sheet(
    report: Report,
    sheet: Path,
    overwrite: bool,
    framing: Framing = AS_THEY_ARE,
    hint_channels: int | None = None,
) -> None:
    """Draw the contact sheet, unless that would replace one unasked."""
    if sheet.exists() and not overwrite:
        print(f"contact sheet: {sheet} is kept; --overwrite replaces it")
        return
    temporary = sheet.with_suffix(".tmp")
    contact_sheet(report.good, framing=framing, hint_channels=hint_channels).save(temporary, "PNG")
    temporary.replace(sheet)
    print(f"contact sheet: {sheet}")


if __name__ == "__main__":
    main()
