"""A run's logs are written, and where they cannot be, the run goes on."""

import csv
from pathlib import Path

import pytest

from cldm.training.loggers import loggers


def test_figures_come_to_both(tmp_path):
    tensorboard, table = loggers(tmp_path)
    for logger in (tensorboard, table):
        logger.log_metrics({"loss": 0.5}, step=3)
        logger.save()
    assert list(csv.DictReader((Path(table.log_dir) / "metrics.csv").open())) == [{"loss": "0.5", "step": "3"}]
    assert list(Path(tensorboard.log_dir).glob("events.out.tfevents.*"))


def test_a_full_disk_is_told_and_the_table_stays_whole(tmp_path, disk_that_fills):
    _, table = loggers(tmp_path)
    file = Path(table.log_dir) / "metrics.csv"
    steps = iter(range(3, 9))

    def log_on_a_full_disk(size: int, **figures: float) -> None:
        table.log_metrics(figures, step=next(steps))
        with disk_that_fills(size), pytest.warns(UserWarning, match="log is left out.*training goes on"):
            table.save()

    log_on_a_full_disk(0, loss=0.5)
    assert not file.exists()
    table.save()
    written = file.read_bytes()
    log_on_a_full_disk(len(written), loss=0.25)  # has no room at the end
    assert file.read_bytes() == written
    log_on_a_full_disk(len(written), fidelity=0.75)  # changes the header
    assert file.read_bytes() == written
    table.save()
    rows = list(csv.DictReader(file.open()))
    assert [(row["step"], row["loss"], row["fidelity"]) for row in rows] == [
        ("3", "0.5", ""),
        ("4", "0.25", ""),
        ("5", "", "0.75"),
    ]
