"""The format of before 2020: the same content as torch reads, and nothing that torch would do besides."""

import pickle
import struct
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from cldm.weights import legacy_pickle, restricted_pickle


def saved(content, path: Path) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def test_content_is_as_torch_reads_it(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    content = {"a": whole, "column": whole[:, 1], "ids": torch.arange(3), "none": torch.ones(0, 2), "n": [1, "x", None]}
    read = legacy_pickle.load(saved(content, tmp_path / "old.pth"))
    theirs = torch.load(tmp_path / "old.pth", weights_only=True)
    assert read.pop("n") == theirs.pop("n")
    assert all(torch.equal(read[name], tensor) for name, tensor in theirs.items())
    assert read["column"].untyped_storage().data_ptr() == read["a"].data_ptr()


class Stored:
    """Pickled as a tensor of `size` numbers, whose storage the file describes as it likes."""

    def __init__(self, described: tuple[Any, ...], size: int = 2):
        self.described = described
        self.size = size

    def __reduce__(self):
        arguments = Described(self.described), 0, (self.size,), (1,), False, OrderedDict()
        return torch._utils._rebuild_tensor_v2, arguments


class Described(tuple):
    pass


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return tuple(value) if isinstance(value, Described) else None


def written(path: Path, content: Any, keys: list[str], data: bytes) -> Path:
    with path.open("wb") as file:
        for value in (MAGIC_NUMBER, PROTOCOL_VERSION, {}):
            pickle.dump(value, file, protocol=2)
        Pickler(file, 2).dump(content)
        pickle.dump(keys, file, protocol=2)
        file.write(data)
    return path


def numbers(*values: float) -> bytes:
    return struct.pack(f"<q{len(values)}f", len(values), *values)


def test_views_of_a_storage_are_read_as_the_oldest_files_have_them(tmp_path):
    view = Stored(("storage", torch.FloatStorage, "0", "cuda:0", 4, ("1", 1, 2)))
    path = written(tmp_path / "old.pth", {"x": view}, ["0"], numbers(0, 1, 2, 3))
    assert legacy_pickle.load(path)["x"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("count", "keys", "data", "message"),
    [
        (2**40, ["0"], numbers(1, 2), "shorter than one of its tensors"),
        (2, ["0"], numbers(1, 2)[:-1], "ends within a tensor"),
        (2, ["0"], numbers(1, 2, 3), "another size than it should"),
        (2, [], numbers(1, 2), "storages are not those of its tensors"),
        (2, ["0", "1"], numbers(1, 2), "storages are not those of its tensors"),
    ],
)
def test_storages_that_are_not_what_the_pickle_says_are_errors(tmp_path, count, keys, data, message):
    stored = Stored(("storage", torch.FloatStorage, "0", "cpu", count, None))
    with pytest.raises((EOFError, pickle.UnpicklingError), match=message):
        legacy_pickle.load(written(tmp_path / "bad.pth", {"x": stored}, keys, data))


def test_a_tensor_beyond_its_storage_does_not_move_what_others_view(tmp_path):
    described = ("storage", torch.FloatStorage, "0", "cpu", 4)
    content = {"view": Stored((*described, ("1", 0, 2))), "beyond": Stored((*described, None), size=1_000_000)}
    path = written(tmp_path / "bad.pth", content, ["0"], struct.pack("<q", 1_000_000) + bytes(4_000_000))
    with pytest.raises(RuntimeError, match="not resizable"):
        legacy_pickle.load(path)


def test_source_code_beside_a_class_is_not_looked_at(tmp_path, monkeypatch):
    """torch writes a patch to the current folder where it differs and the class asks for that."""
    monkeypatch.chdir(tmp_path)
    content = {"module": Described(("module", nn.Linear, "linear.py", "class Linear: ..."))}
    read = legacy_pickle.load(written(tmp_path / "module.pth", content, [], b""))
    assert issubclass(read["module"], restricted_pickle.Placeholder)
    assert [path.name for path in tmp_path.iterdir()] == ["module.pth"]


def test_a_tar_archive_is_not_unpacked(tmp_path):
    """Its first member may be called as a pickle begins."""
    name = pickle.dumps(MAGIC_NUMBER, 2).decode("utf-8", "surrogateescape")
    with tarfile.open(tmp_path / "tar.pth", "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(name))
    assert (tmp_path / "tar.pth").read_bytes().startswith(pickle.dumps(MAGIC_NUMBER, 2))
    with pytest.raises(pickle.UnpicklingError):
        legacy_pickle.load(tmp_path / "tar.pth")


def test_other_pickles_are_named(tmp_path):
    (tmp_path / "list.pth").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(pickle.UnpicklingError, match=r"none of torch\.save"):
        legacy_pickle.load(tmp_path / "list.pth")
