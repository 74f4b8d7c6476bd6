"""The dataset of the training tutorial: Fill50K, or one of your own in its format.

`python tutorial_dataset.py [path]` checks it: counts the rows, shows one item, draws a contact sheet, lists every bad
row and then exits with 1. Do this before training on pictures of your own.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from cldm.data import Row, find_dataset, read_pair, read_rows
from cldm.data_check import Report, check_dataset, contact_sheet


class MyDataset(Dataset):
    """Items of a folder with `prompt.json`, as ControlLDM trains on them.

    Args:
        path: The folder; published and self-made datasets, and one unpacked a folder deeper, all do.

    Raises:
        FileNotFoundError: If there is no dataset, with the commands that make one.
        ValueError: If a row is malformed.
    """

    def __init__(self, path: str | Path = "./training/fill50k"):
        self.rows = read_rows(find_dataset(path))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray | str]:
        return load_item(self.rows[index])


def load_item(row: Row) -> dict[str, np.ndarray | str]:
    """What the model learns from one row.

    Returns:
        `jpg`, the image to make, float32 RGB (h, w, 3) in [-1, 1]; `hint`, the control map that leads to it,
        float32 RGB (h, w, 3) in [0, 1]; `txt`, the prompt.

    Raises:
        FileNotFoundError: If an image is missing.
        ValueError: If an image cannot be used. Either names the row.
    """
    source, target = read_pair(row)
    hint = source.astype(np.float32) / 255
    jpg = target.astype(np.float32) / 127.5 - 1
    return {"jpg": jpg, "hint": hint, "txt": row.prompt}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", default="./training/fill50k", help="default: ./training/fill50k")
    parser.add_argument(
        "--sheet", type=Path, help="file of the contact sheet; default: contact_sheet.png beside the rows"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a contact sheet that is there")
    given = parser.parse_args()
    try:
        file = find_dataset(given.path)
        report = check_dataset(file)
        print_report(file, report)
        if report.good:
            save_sheet(report, given.sheet or file.parent / "contact_sheet.png", given.overwrite)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    sys.exit(1 if report.bad or not report.good else 0)


def print_report(file: Path, report: Report) -> None:
    """The bad rows, one good item, and the counts."""
    for row in report.bad:
        print(row)
    print(f"{file}: {len(report.good) + len(report.bad)} rows, {len(report.bad)} of them bad")
    sizes = [f"{count} of {width}x{height}" for (width, height), count in report.sizes.most_common(4)]
    print(f"sizes: {', '.join(sizes)}{', ...' * (len(report.sizes) > 4)}")
    if len(report.sizes) > 1:
        print("Only images of one size fit into one batch: train with batch_size=1, or make them the same size.")
    if report.good:
        item = load_item(report.good[0])
        for name in ("jpg", "hint"):
            values = item[name]
            print(f"{name}: {values.shape} {values.dtype}, {values.min():.2f} to {values.max():.2f}")
        print(f"txt: {item['txt']}")


def save_sheet(report: Report, sheet: Path, overwrite: bool) -> None:
    """Draw the contact sheet, unless that would replace one unasked."""
    if sheet.exists() and not overwrite:
        print(f"contact sheet: {sheet} is kept; --overwrite replaces it")
        return
    temporary = sheet.with_suffix(".tmp")
    contact_sheet(report.good).save(temporary, "PNG")
    temporary.replace(sheet)
    print(f"contact sheet: {sheet}")


if __name__ == "__main__":
    main()
