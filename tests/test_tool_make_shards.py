"""The script that packs shards."""

import sys

import pytest

from cldm.data.shards import find_shards
from cldm.fill50k import make_fill50k
from tool_make_shards import main


def run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["tool_make_shards.py", *map(str, arguments)])
    main()


def test_a_folder_becomes_shards_and_they_get_an_index_anew(tmp_path, monkeypatch, capsys):
    make_fill50k(tmp_path / "f", 5, 64, workers=1)
    run(monkeypatch, tmp_path / "f", tmp_path / "s", "--samples", 2, "--keep-order")
    assert f"python tutorial_dataset.py {tmp_path}/s" in capsys.readouterr().out
    assert find_shards(tmp_path / "s").counts == (2, 2, 1)
    (tmp_path / "s/index.json").unlink()
    run(monkeypatch, f"{tmp_path}/s/shard-{{00000..00001}}.tar", tmp_path / "s/index.json")
    assert find_shards(tmp_path / "s").counts == (2, 2)


def test_what_cannot_be_done_is_one_message(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"^error: no dataset at"):
        run(monkeypatch, tmp_path / "nowhere", tmp_path / "s")
