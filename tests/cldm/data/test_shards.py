"""Shards and their index: local and from a server, broken connections, damage, missing members, hostile names."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import sharded
from cldm.data import shards as module
from cldm.data.make_shards import make_shards
from cldm.data.shards import as_sample, count_samples, find_shards, is_shards, last_name
from local_hub import local_hub


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return sharded.make(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy of its own."""
    return shutil.copytree(made, tmp_path / "s")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(module, "_FIRST_WAIT", 0.0)


def on_hub(folder: Path) -> dict[str, bytes]:
    return {f"me/data/{file.name}": file.read_bytes() for file in folder.iterdir()}


def prompts(shards) -> list[str]:
    return [raw["txt"].decode() for shard in range(len(shards.urls)) for _, raw in shards.read(shard)]


def test_every_way_to_name_them_is_the_same(made, monkeypatch):
    whole = find_shards(made)
    assert sum(whole.counts) == len(whole) == sharded.COUNT
    for other in (made / "index.json", f"{made}/shard-{{00000..00005}}.tar", f"{made}/../s/index.json"):
        assert is_shards(other)
        assert find_shards(other).counts == whole.counts
        assert prompts(find_shards(other)) == prompts(whole)
    monkeypatch.chdir(made.parent)
    assert prompts(find_shards("./s/shard-{00001,00005}.tar")) == [*prompts(whole)[4:8], *prompts(whole)[20:]]
    assert not is_shards(made.parent / "f")
    assert not is_shards("no_such_folder")


def test_shards_of_a_server_are_those_of_the_disk(made):
    with local_hub(files=on_hub(made)) as hub:
        base = f"{hub.url}/me/data/resolve/main"
        for where in (base, f"{base}/index.json", f"{base}/shard-{{00000..00005}}.tar"):
            assert is_shards(where)
            assert prompts(find_shards(where)) == prompts(find_shards(made))


def test_a_broken_connection_goes_on_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "f").mkdir()
    rng = np.random.default_rng(0)
    rows = [{"source": "source.png", "target": f"{i}.png", "prompt": f"prompt {i}"} for i in range(4)]
    for name in ["source.png", *(row["target"] for row in rows)]:
        (tmp_path / "f" / name).write_bytes(rng.bytes(200_000))  # more than a pipe holds
    (tmp_path / "f/prompt.json").write_text("\n".join(map(json.dumps, rows)))
    made = make_shards(tmp_path / "f", tmp_path / "s", seed=None).parent
    with local_hub(files=on_hub(made)) as hub:
        shards = find_shards(f"{hub.url}/me/data/resolve/main")
        hub.asked.clear()
        hub.cut_after = 1_000_000  # in the third sample
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: setattr(hub, "cut_after", None)))
        read = list(shards.read(0))
        assert len(hub.downloads()) == 2
    assert [number for number, _ in read] == [0, 1, 2, 3]
    assert [raw["target.png"] for _, raw in read] == [(tmp_path / "f" / row["target"]).read_bytes() for row in rows]


def test_a_server_that_stays_broken_is_an_error_that_names_the_shard(made):
    with local_hub(files=on_hub(made)) as hub:
        shards = find_shards(f"{hub.url}/me/data/resolve/main")
        hub.cut_after = 1000  # in the first member of a shard
        with pytest.raises(ValueError, match=r"cannot read http\S+shard-00001.tar, sample 0.*get it anew"):
            list(shards.read(1))
        del hub.files["me/data/shard-00002.tar"]
        with pytest.raises(ValueError, match=r"cannot read http\S+shard-00002.tar, sample 0"):
            list(shards.read(2))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_cut_shard_is_found(folder, share):
    file = folder / "shard-00001.tar"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"cannot read \S+shard-00001.tar, sample \d.*Make this shard again"):
        list(find_shards(folder).read(1))


def test_a_shard_with_other_samples_than_its_index_says_is_found(folder):
    shutil.copy(folder / "shard-00005.tar", folder / "shard-00001.tar")
    with pytest.raises(ValueError, match="sample 3: ValueError: it has 3 samples, and 4 by its index"):
        list(find_shards(folder).read(1))
    shutil.copy(folder / "shard-00002.tar", folder / "shard-00005.tar")
    with pytest.raises(ValueError, match="it has 4 samples, and 3 by its index"):
        list(find_shards(folder).read(5))


def test_a_damaged_header_is_found(folder):
    file = folder / "shard-00001.tar"
    content = bytearray(file.read_bytes())
    content[content.index(b"000000005") + 20] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read \S+shard-00001.tar, sample 1"):
        list(find_shards(folder).read(1))


def test_a_part_of_a_shard(made):
    shards = find_shards(made)
    assert [number for number, _ in shards.read(2, 1, 3)] == [1, 2]
    assert [number for number, _ in shards.read(2, 3)] == [3]


def test_a_sample_has_its_place_in_the_whole(made):
    shards = find_shards(made)
    assert shards.first(5) == 20
    assert shards.name_of(21) == f"{made}/shard-00005.tar, sample 1"
    assert shards.name_of(23) == f"item 23, after the last of {made}"


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        (["target.png", "txt"], "no member 7.source.png .*got target.png, txt"),
        (["source.png", "txt"], "no member 7.target.png"),
        (["source.png", "target.png"], "no member 7.txt"),
        (["source.0.png", "source.2.png", "target.png", "txt"], "sources numbered from 0"),
        (["source.png", "target.png", "target.jpg", "txt"], "expected one target"),
    ],
)
def test_a_missing_member_is_named(members, problem):
    raw = {"__key__": "7", "__url__": "x", **dict.fromkeys(members, b"")}
    with pytest.raises(ValueError, match=rf"a.tar, sample 3 \(key 7\): .*{problem}"):
        as_sample("a.tar", 3, raw)


def test_many_sources_are_in_the_order_of_their_numbers():
    names = [f"source.{i}.png" for i in range(12)]
    raw = {"__key__": "7", "target.png": b"", "txt": "ü".encode(), **{name: name.encode() for name in reversed(names)}}
    assert [file.content.decode() for file in as_sample("a.tar", 0, raw).sources] == names
    with pytest.raises(ValueError, match="the prompt is not UTF-8"):
        as_sample("a.tar", 0, {**raw, "txt": b"\xff"})


@pytest.mark.parametrize(
    "name", ["pipe:touch hacked", "/etc/passwd.tar", "../x.tar", "a/../../x.tar", "file:///x.tar", "", 7]
)
def test_an_index_can_name_nothing_but_shards_below_it_and_web_addresses(folder, name):
    (folder / "index.json").write_text(json.dumps({"format": 1, "shards": [{"name": name, "samples": 1}]}))
    with pytest.raises(ValueError, match="is no index of shards"):
        find_shards(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2, "shards": []}', '{"format": 1, "shards": []}', '{"format": 1}']
)
def test_a_malformed_index_is_named(folder, text):
    (folder / "index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index.json is no index of shards.*tool_make_shards.py"):
        find_shards(folder)


def test_shards_without_an_index_say_how_to_make_one(folder):
    (folder / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no index of shards at .*\n.*tool_make_shards.py FOLDER OUTPUT"):
        find_shards(f"{folder}/shard-{{00000..00005}}.tar")


def test_shards_that_the_index_does_not_have_are_named(folder):
    with pytest.raises(ValueError, match=r"1 of the 7 shards .* not in their index: \S+shard-00006.tar"):
        find_shards(f"{folder}/shard-{{00000..00006}}.tar")


def test_no_command_is_run():
    with pytest.raises(ValueError, match="expected a path, or a URL of http, https, gs, hf, got pipe:"):
        find_shards("pipe:touch hacked.tar")


def test_samples_are_counted(folder):
    assert count_samples(str(folder / "shard-00005.tar")) == 3
    with tarfile.open(folder / "empty.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("no_ending"), io.BytesIO())
    assert count_samples(str(folder / "empty.tar")) == 0
    with pytest.raises(ValueError, match=r"cannot read .*missing.tar"):
        count_samples(str(folder / "missing.tar"))


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("/home/me/fill50k/", "fill50k"),
        ("data/shard-{00000..00799}.tar", "shard-{00000..00799}.tar"),
        ("/home/me/{a,b}/shard-{0..9}.tar", "shard-{0..9}.tar"),
        ("/home/me/{old/shard-0,new/{1,2}}.tar", "{shard-0,{1,2}}.tar"),
        ("https://me:word@example.org/mine/shard-{0..9}.tar?Signature=a/b#c", "shard-{0..9}.tar"),
        ("https://example.org/mine/photos/", "photos"),
        ("https://me:word@example.org", ""),
        ("held_out", "held_out"),
    ],
)
def test_a_last_name_tells_neither_folders_nor_servers_nor_secrets(where, name):
    assert last_name(where) == name
