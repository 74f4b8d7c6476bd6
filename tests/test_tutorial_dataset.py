"""MyDataset's items, and the script that checks a dataset."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cldm.data import Framing
from cldm.data.make_shards import make_shards
from cldm.fill50k import make_fill50k
from ldm.models.diffusion.draws import INDEX
from tutorial_dataset import MyDataset, main, open_dataset

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path) -> Path:
    """In the published layout: nothing but prompt.json, source and target."""
    made = make_fill50k(tmp_path / "fill50k", 6, 64, workers=1).parent
    (made / "recipe.json").unlink()
    return made


def run(monkeypatch, *arguments: str | Path) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["tutorial_dataset.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_items_are_what_control_ldm_trains_on(folder):
    dataset = MyDataset(folder)
    assert len(dataset) == 6
    item = dataset[2]
    assert set(item) == {"jpg", "hint", "txt"}
    source, target = (np.asarray(Image.open(folder / name / "2.png")) for name in ("source", "target"))
    for name in ("jpg", "hint"):
        assert item[name].dtype == np.float32
        assert item[name].shape == (64, 64, 3)
    np.testing.assert_allclose((item["jpg"] + 1) * 127.5, target, atol=1e-4)
    np.testing.assert_allclose(item["hint"] * 255, source, atol=1e-4)
    assert item["txt"].endswith(" background")


def test_ranges_are_those_of_the_model_and_colours_are_rgb(folder):
    for name, colour in (("source", (255, 0, 0)), ("target", (0, 0, 255))):
        Image.new("RGB", (64, 64), colour).save(folder / name / "0.png")
    item = MyDataset(folder)[0]
    assert item["hint"][0, 0].tolist() == [1, 0, 0]
    assert item["jpg"][0, 0].tolist() == [-1, -1, 1]


def test_default_path_is_the_published_one(folder, monkeypatch, tmp_path):
    shutil.copytree(folder, tmp_path / "training/fill50k")
    monkeypatch.chdir(tmp_path)
    assert len(MyDataset()) == 6


def test_folder_above_does_too(folder):
    assert len(MyDataset(folder.parent)) == 6
    assert len(MyDataset(str(folder))) == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_items_make_batches_of_control_ldms_shape(folder, workers):
    batch = next(iter(DataLoader(MyDataset(folder), batch_size=4, num_workers=workers)))
    assert batch["jpg"].shape == batch["hint"].shape == (4, 64, 64, 3)
    assert batch["jpg"].dtype == torch.float32
    assert batch["jpg"].min() >= -1
    assert batch["hint"].min() == 0
    assert batch["hint"].max() == 1
    assert len(batch["txt"]) == 4


def test_bad_image_is_named_by_its_row(folder):
    (folder / "source/3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"prompt.json, line 4: no image at \S+source/3.png"):
        MyDataset(folder)[3]


def test_missing_folder_is_one_message(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python tool_make_fill50k.py --output .*nowhere"):
        MyDataset(tmp_path / "nowhere")


def test_check_of_a_good_dataset(folder, monkeypatch, capsys):
    assert run(monkeypatch, folder) == 0
    printed = capsys.readouterr().out
    assert f"{folder}/prompt.json: 6 rows, 0 of them bad" in printed
    assert "sizes: 6 of 64x64" in printed
    assert "jpg: (64, 64, 3) float32, " in printed
    assert "hint: (64, 64, 3) float32, 0.00 to 1.00" in printed
    assert f"txt: {MyDataset(folder)[0]['txt']}" in printed
    assert f"contact sheet: {folder}/contact_sheet.png" in printed
    assert Image.open(folder / "contact_sheet.png").format == "PNG"


def test_check_lists_bad_rows_and_exits_with_1(folder, monkeypatch, capsys):
    (folder / "source/3.png").unlink()
    lines = (folder / "prompt.json").read_text().splitlines()
    (folder / "prompt.json").write_text("\n".join([*lines[:1], "{", *lines[2:]]))
    assert run(monkeypatch, folder) == 1
    printed = capsys.readouterr().out
    assert f"{folder}/prompt.json, line 2: malformed JSON" in printed
    assert f"{folder}/prompt.json, line 4: no image at {folder}/source/3.png" in printed
    assert "6 rows, 2 of them bad" in printed
    assert (folder / "contact_sheet.png").is_file()  # of the good ones


def test_check_of_nothing_but_bad_rows(folder, monkeypatch, capsys):
    shutil.rmtree(folder / "source")
    assert run(monkeypatch, folder) == 1
    assert "6 rows, 6 of them bad" in capsys.readouterr().out
    (folder / "prompt.json").write_text("")
    assert run(monkeypatch, folder) == 1
    assert "0 rows" in capsys.readouterr().out


def test_check_warns_of_sizes_that_do_not_fit_into_one_batch(folder, monkeypatch, capsys):
    for name in ("source", "target"):
        Image.new("RGB", (128, 64)).save(folder / name / "0.png")
    assert run(monkeypatch, folder) == 0
    printed = capsys.readouterr().out
    assert "sizes: 5 of 64x64, 1 of 128x64" in printed
    assert "batch_size=1" in printed


def test_contact_sheet_is_not_overwritten_unasked(folder, monkeypatch, capsys):
    sheet = folder / "mine.png"
    sheet.write_text("mine")
    run(monkeypatch, folder, "--sheet", sheet)
    assert sheet.read_text() == "mine"
    assert f"{sheet} is kept; --overwrite replaces it" in capsys.readouterr().out
    run(monkeypatch, folder, "--sheet", sheet, "--overwrite")
    assert Image.open(sheet).format == "PNG"


def test_script_without_a_dataset_is_one_message(tmp_path):
    command = [sys.executable, ROOT / "tutorial_dataset.py"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: no dataset at training/fill50k: expected")
    assert "    python tool_make_fill50k.py --output training/fill50k\n" in ended.stderr


def test_items_of_shards_are_those_of_the_folder(folder, tmp_path):
    shards = make_shards(folder, tmp_path / "shards", 4, seed=None).parent
    rows, read = MyDataset(folder), open_dataset(shards)
    assert len(read) == len(rows) == 6
    for item in read.read(0, range(6)):
        expected = rows[item[INDEX]]
        assert np.array_equal(item["jpg"], expected["jpg"])
        assert np.array_equal(item["hint"], expected["hint"])
        assert item["txt"] == expected["txt"]
    assert isinstance(open_dataset(folder), MyDataset)


def test_items_have_the_size_and_the_channels_that_are_asked_for(folder):
    Image.new("L", (300, 200), 255).save(folder / "source/0.png")
    Image.new("RGB", (300, 200), "white").save(folder / "target/0.png")
    item = MyDataset(folder, Framing((128, 64), "pad"), hint_channels=1)[0]
    assert item["jpg"].shape == (64, 128, 3)
    assert item["hint"].shape == (64, 128, 1)
    assert item["hint"][:, 64].tolist() == [[1]] * 64
    assert item["hint"][:, 0].tolist() == [[0]] * 64
    assert item["jpg"][:, 0].tolist() == [[-1, -1, -1]] * 64


def test_check_of_shards(folder, tmp_path, monkeypatch, capsys):
    shards = make_shards(folder, tmp_path / "shards", 4).parent
    assert run(monkeypatch, shards) == 0
    printed = capsys.readouterr().out
    assert f"{shards}: 6 samples, 0 of them bad" in printed
    assert "sizes: 6 of 64x64" in printed
    assert "hint: (64, 64, 3) float32, 0.00 to 1.00" in printed
    assert Image.open(shards / "contact_sheet.png").format == "PNG"
    (shards / "shard-00001.tar").unlink()
    assert run(monkeypatch, f"{shards}/shard-{{00000..00001}}.tar") == 1
    assert f"cannot read {shards}/shard-00001.tar, sample 0" in capsys.readouterr().out


def test_check_as_it_will_be_trained(folder, monkeypatch, capsys):
    assert run(monkeypatch, folder, "--size", "128x64", "--framing", "crop") == 0
    assert "jpg: (64, 128, 3)" in capsys.readouterr().out
    assert run(monkeypatch, folder, "--size", "128x64") == 1
    assert "line 1: images are 64x64, and resizing them to 128x64 would distort" in capsys.readouterr().out
    assert run(monkeypatch, folder, "--hint-channels", "4") == 1
    assert "the model takes 4 hint channels, got 3" in capsys.readouterr().out
    problem = "error: size must have sides that are multiples of 64 up to 8192, got 100x100"
    assert run(monkeypatch, folder, "--size", "100") == problem
