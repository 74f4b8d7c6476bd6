"""Shards of a folder: the same bytes in, interruptions, and what is refused."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

import sharded
from cldm.data import find_dataset, read_rows
from cldm.data.make_shards import index_shards, make_shards
from cldm.data.shards import as_sample, find_shards


@pytest.fixture
def shards(tmp_path) -> Path:
    return sharded.make(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def samples(where: Path) -> list:
    found = find_shards(where)
    return [as_sample(found.urls[s], n, raw) for s in range(len(found.urls)) for n, raw in found.read(s)]


def test_every_row_is_there_byte_for_byte(shards):
    rows = {row.line: row for row in read_rows(find_dataset(shards.parent / "f"))}
    read = samples(shards)
    assert len(read) == len(rows) == sharded.COUNT
    for sample in read:
        row = rows.pop(int(sample.key.partition("_line")[2]))
        assert sample.prompt == row.prompt
        assert sample.target.content == row.target.read_bytes()
        assert [file.content for file in sample.sources] == [row.source.read_bytes()]


def test_the_index_has_the_counts(shards):
    index = json.loads((shards / "index.json").read_text())
    assert [shard["samples"] for shard in index["shards"]] == [4, 4, 4, 4, 4, 3]
    assert [shard["name"] for shard in index["shards"]] == [f"shard-{i:05}.tar" for i in range(6)]


def test_a_folders_rows_are_shuffled_unless_they_are_to_keep_their_order(shards, tmp_path):
    def lines(where: Path) -> list[int]:
        return [int(sample.key.partition("_line")[2]) for sample in samples(where)]

    kept = make_shards(tmp_path / "f", tmp_path / "kept", 10, seed=None).parent
    assert lines(kept) == list(range(1, sharded.COUNT + 1))
    assert lines(shards) != lines(kept)
    assert sorted(lines(shards)) == lines(kept)


def test_an_interrupted_conversion_goes_on_to_the_same_bytes(shards, tmp_path, monkeypatch):
    whole = contents(shards)
    (shards / "index.json").unlink()
    (shards / "shard-00002.tar").rename(shards / ".shard-00002.tar.1.unfinished")
    (shards / "shard-00005.tar").unlink()
    kept = (shards / "shard-00001.tar").stat()
    make_shards(tmp_path / "f", shards, sharded.PER_SHARD)
    assert contents(shards) == whole
    assert (shards / "shard-00001.tar").stat() == kept


def test_a_failure_leaves_no_half_shard(shards, tmp_path):
    row = read_rows(find_dataset(tmp_path / "f"))[8]
    row.target.unlink()
    with pytest.raises(FileNotFoundError, match=r"prompt.json, line 9: no file at \S+target/8.png"):
        make_shards(tmp_path / "f", tmp_path / "new", 5, seed=None)
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["shard-00000.tar", "shards_recipe.json"]


def test_shards_become_shards_of_another_size(shards, tmp_path):
    again = make_shards(shards, tmp_path / "again", 7).parent
    assert find_shards(again).counts == (7, 7, 7, 2)
    assert [(s.prompt, s.target.content) for s in samples(again)] == [
        (s.prompt, s.target.content) for s in samples(shards)
    ]


def test_other_content_is_left_alone(shards, tmp_path):
    with pytest.raises(ValueError, match="was begun with another dataset or other arguments"):
        make_shards(tmp_path / "f", shards, sharded.PER_SHARD + 1)
    with pytest.raises(ValueError, match=r"holds files that were not made here, as prompt.json"):
        make_shards(shards, tmp_path / "f")
    with pytest.raises(ValueError, match="samples must be at least 1"):
        make_shards(shards, tmp_path / "new", 0)


def test_several_sources_of_several_kinds(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("edges.png", "image.JPG"):
        (tmp_path / "a" / name).write_bytes(name.encode())
    np.save(tmp_path / "a" / "depth.npy", np.zeros((2, 2)))
    row = {"source": ["edges.png", "depth.npy"], "target": "image.JPG", "prompt": "Grün"}
    (tmp_path / "a/prompt.json").write_text(json.dumps(row))
    (sample,) = samples(make_shards(tmp_path / "a", tmp_path / "s").parent)
    assert [file.name.partition(".")[2] for file in sample.sources] == ["source.0.png", "source.1.npy"]
    assert sample.target.name.endswith(".target.jpg")
    assert sample.target.content == b"image.JPG"
    assert sample.prompt == "Grün"


def test_files_may_lie_outside_the_datasets_folder(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/edges.png", "image.jpg", "other.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    rows = [
        {"source": "edges.png", "target": str(tmp_path / "image.jpg"), "prompt": "absolute"},
        {"source": str(tmp_path / "a/edges.png"), "target": "../other.jpg", "prompt": "absolute, and beside"},
    ]
    (tmp_path / "a/prompt.json").write_text("\n".join(map(json.dumps, rows)))
    index = make_shards(tmp_path / "a", tmp_path / "s", seed=None)
    assert [(s.sources[0].content, s.target.content) for s in samples(index.parent)] == [
        (b"a/edges.png", b"image.jpg"),
        (b"a/edges.png", b"other.jpg"),
    ]
    assert make_shards(tmp_path / "a", tmp_path / "s", seed=None) == index, "the same is recognised"
    rows[0]["target"] = str(tmp_path / "other.jpg")
    (tmp_path / "a/prompt.json").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="was begun with another dataset"):
        make_shards(tmp_path / "a", tmp_path / "s", seed=None)


def test_an_index_of_shards_that_others_made(shards):
    expected = (shards / "index.json").read_text()
    pattern = f"{shards}/shard-{{00000..00005}}.tar"
    with pytest.raises(FileExistsError, match="is not overwritten"):
        index_shards(pattern, shards / "index.json")
    (shards / "index.json").unlink()
    index_shards(pattern, shards / "index.json")
    assert (shards / "index.json").read_text() == expected
    with tarfile.open(shards / "shard-00006.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("nothing"), io.BytesIO())
    with pytest.raises(ValueError, match=r"shard-00006.tar has no samples"):
        index_shards(f"{shards}/shard-{{00005..00006}}.tar", shards / "other.json")
