"""The check of a whole dataset: every bad row is found, at its line; the contact sheet shows what the rows hold."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sharded
from cldm.data import Framing, read_rows
from cldm.data.make_shards import make_shards
from cldm.data_check import check_dataset, check_shards, contact_sheet
from cldm.fill50k import make_fill50k


@pytest.fixture
def dataset(tmp_path) -> Path:
    return make_fill50k(tmp_path / "fill50k", 12, 64, workers=1)


def edit(file: Path, line: int, **changes: str) -> None:
    lines = file.read_text().splitlines()
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | changes)
    file.write_text("\n".join(lines))


def test_a_good_dataset_has_no_bad_rows(dataset):
    report = check_dataset(dataset)
    assert report.bad == []
    assert report.good == read_rows(dataset)
    assert report.sizes == {(64, 64): 12}


def test_every_kind_of_bad_row_is_listed_by_its_line(dataset):
    folder = dataset.parent
    edit(dataset, 2, prompt="  ")
    edit(dataset, 3, target="target/gone.png")
    (folder / "source/3.png").write_bytes((folder / "source/3.png").read_bytes()[:-20])
    Image.new("RGB", (128, 64)).save(folder / "target/4.png")
    for name in ("source", "target"):
        Image.new("RGB", (72, 64)).save(folder / name / "5.png")
    lines = dataset.read_text().splitlines()
    lines[6] = lines[6][:-1]
    dataset.write_text("\n".join(lines))
    edit(dataset, 8, prompt="", source="source/gone.png")
    report = check_dataset(dataset)
    assert {row.line: row.problem for row in report.bad} == {
        2: "the prompt is empty",
        3: f"no image at {folder}/target/gone.png",
        4: f"cannot read {folder}/source/3.png as an image: Truncated File Read",
        5: "source is 64x64 and target 128x64; make them the same size",
        6: "images are 72x64; resize or crop both sides to multiples of 64, or train with a size, such as size=512 "
        "framing=crop",
        7: report.bad[5].problem,
        8: f"the prompt is empty; no image at {folder}/source/gone.png",
    }
    assert report.bad[5].problem.startswith("malformed JSON")
    assert [row.line for row in report.good] == [1, 9, 10, 11, 12]
    assert report.sizes.total() == 5


def test_sizes_are_counted(dataset):
    for name in ("source", "target"):
        Image.new("RGB", (128, 64)).save(dataset.parent / name / "5.png")
    assert check_dataset(dataset).sizes == {(64, 64): 11, (128, 64): 1}


def test_lines_are_right_in_a_dataset_of_many_chunks(dataset):
    lines = dataset.read_text().splitlines() * 60  # 720 rows, chunks of 256
    lines[300] = "{"
    lines[719] = "{"
    dataset.write_text("\n".join(lines))
    report = check_dataset(dataset, workers=2)
    assert [row.line for row in report.bad] == [301, 720]
    assert len(report.good) == 718


def test_progress_bar_counts_the_rows(dataset, capsys):
    check_dataset(dataset)
    assert "12/12" in capsys.readouterr().err


def test_contact_sheet_shows_sources_targets_and_prompts(dataset):
    rows = read_rows(dataset)[:1]
    sheet = np.asarray(contact_sheet(rows))
    source, target = (np.asarray(Image.open(file)) for file in (rows[0].source, rows[0].target))
    assert np.array_equal(sheet[8:72, 8:72], source)
    assert np.array_equal(sheet[8:72, 80:144], target)
    text = sheet[76:110, 8:200]
    assert text.min() < 80  # ink
    assert text.max() == 255


def test_contact_sheet_has_at_most_so_many_pairs_from_first_to_last(dataset):
    rows = read_rows(dataset)
    columns, full = contact_sheet(rows[:3]), contact_sheet(rows)
    assert full.width == columns.width
    assert full.height > 3 * columns.height
    assert contact_sheet(rows, pairs=3).size == columns.size
    ends = contact_sheet([rows[0], rows[-1]])
    assert np.array_equal(ends, contact_sheet(rows, pairs=2))


def test_contact_sheet_of_long_prompts_and_wide_images(dataset):
    edit(dataset, 1, prompt="word " * 300)
    edit(dataset, 2, prompt="x" * 2000)
    for name in ("source", "target"):
        Image.new("RGB", (1280, 64), "red").save(dataset.parent / name / "2.png")
    sheet = contact_sheet(read_rows(dataset))
    assert sheet.width < 1100
    assert sheet.height < 1100


def test_shards_are_checked_sample_by_sample(tmp_path):
    shards = sharded.make(tmp_path)
    report = check_shards(shards)
    assert report.bad == []
    assert report.count == sharded.COUNT
    assert report.sizes == {(64, 64): sharded.COUNT}
    assert report.channels == {3: sharded.COUNT}
    assert [sample.key[:9] for sample in report.good] == [f"{2 * i:09}" for i in range(12)]  # spread evenly
    assert contact_sheet(report.good).width > 3 * 2 * 64


def test_every_kind_of_bad_sample_is_named(tmp_path):
    made = make_fill50k(tmp_path / "f", 6, 64, workers=1).parent
    (made / "source/1.png").write_bytes((made / "source/1.png").read_bytes()[:-20])
    Image.new("RGB", (128, 64)).save(made / "target/3.png")
    edit(made / "prompt.json", 6, prompt=" ")
    shards = make_shards(made, tmp_path / "s", 3, seed=None).parent
    first = (shards / "shard-00000.tar").read_bytes()
    found = [str(bad) for bad in check_shards(shards).bad]
    assert found == [
        f"{shards}/shard-00000.tar, sample 1 (key 000000001_line2): cannot read 000000001_line2.source.png as an "
        "image: Truncated File Read",
        f"{shards}/shard-00001.tar, sample 0 (key 000000003_line4): source is 64x64 and target 128x64; make them the "
        "same size",
        f"{shards}/shard-00001.tar, sample 2 (key 000000005_line6): the prompt is empty",
    ]
    (shards / "shard-00000.tar").write_bytes(first[:2000])
    report = check_shards(shards)
    assert str(report.bad[0]).startswith(f"cannot read {shards}/shard-00000.tar, sample ")
    assert len(report.bad) == 3


def test_rows_are_checked_as_they_will_be_trained(dataset):
    assert check_dataset(dataset, framing=Framing((128, 64), "crop")).sizes == {(128, 64): 12}
    assert len(check_dataset(dataset, framing=Framing((128, 64))).bad) == 12
    report = check_dataset(dataset, hint_channels=1)
    assert "the model takes 1 hint channels, got 3" in str(report.bad[0])
    assert report.count == 0


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_contact_sheet_of_other_channels(dataset, channels):
    np.save(dataset.parent / "map.npy", np.ones((64, 64, channels), np.float32))
    edit(dataset, 1, source="map.npy")
    sheet = np.asarray(contact_sheet(read_rows(dataset)[:1]))
    assert sheet[20, 20].tolist() == [255, 255, 0 if channels == 2 else 255]
