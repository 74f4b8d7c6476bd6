"""Hashes of files."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cldm.records import FileHashes, WeightsFile
from cldm.records.hashes import notes_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights" / "a.ckpt"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes" / "hashes.json"


def test_name_size_and_sha256(file, notes):
    expected = WeightsFile("a.ckpt", 7, hashlib.sha256(b"weights").hexdigest())
    assert FileHashes(notes).of(file) == expected
    assert FileHashes(notes).begin([file, str(file)]).result() == (expected, expected)


def test_a_link_is_called_by_its_own_name(file, notes, tmp_path):
    (tmp_path / "model.safetensors").symlink_to(file)
    assert FileHashes(notes).of(tmp_path / "model.safetensors") == replace(
        FileHashes(notes).of(file), name="model.safetensors"
    )


def test_a_file_is_read_once_until_it_changes(file, notes, monkeypatch):
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: (hashed.append(given), digest(*given))[1])
    first = FileHashes(notes).of(file)
    assert FileHashes(notes).of(file) == first
    assert len(hashed) == 1
    state = file.stat()
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert FileHashes(notes).of(file).sha256 != first.sha256
    assert len(hashed) == 2


def test_a_file_is_found_where_it_was_seen_or_in_a_folder(file, notes, tmp_path):
    hashes = FileHashes(notes)
    wanted = hashes.of(file)
    assert FileHashes(notes).find(wanted) == file
    moved = file.rename(tmp_path / "renamed.pth")
    assert FileHashes(notes).find(wanted) is None
    assert FileHashes(notes).find(wanted, (tmp_path / "absent", tmp_path)) == moved


def test_another_file_in_its_place_is_not_it(file, notes):
    hashes = FileHashes(notes)
    wanted = hashes.of(file)
    file.write_bytes(b"another")
    assert hashes.find(wanted, (file.parent,)) is None


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"x": 3, "y": {"sha256": 1}}'])
def test_damaged_notes_are_no_harm(file, notes, content):
    notes.parent.mkdir()
    notes.write_bytes(content)
    assert FileHashes(notes).of(file).bytes == 7
    assert json.loads(notes.read_bytes())[str(file)]["bytes"] == 7


def test_without_a_place_for_notes_hashes_are_kept_in_memory(file, tmp_path):
    hashes = FileHashes(file / "hashes.json")
    wanted = hashes.of(file)
    assert hashes.find(wanted) == file
    assert list(tmp_path.rglob("*.json")) == []


def test_the_oldest_notes_are_forgotten(file, notes, monkeypatch):
    monkeypatch.setattr("cldm.records.hashes._MOST_NOTES", 2)
    for name in "bcd":
        (file.parent / name).write_text(name)
        FileHashes(notes).of(file.parent / name)
    assert [Path(path).name for path in json.loads(notes.read_bytes())] == ["c", "d"]


def test_notes_are_in_the_users_folder_of_caches_or_where_it_is_said(monkeypatch):
    monkeypatch.setenv("CONTROLNET_HASHES", "/elsewhere/notes.json")
    assert notes_file() == Path("/elsewhere/notes.json")
    monkeypatch.delenv("CONTROLNET_HASHES")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert notes_file() == Path("/somewhere/controlnet/hashes.json")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert notes_file() == Path.home() / ".cache" / "controlnet" / "hashes.json"


def test_an_absent_file_is_an_error_of_its_own(notes, tmp_path):
    with pytest.raises(FileNotFoundError):
        FileHashes(notes).begin([tmp_path / "absent"]).result()


def test_what_is_known_is_told_without_reading_the_file(file, notes):
    hashes = FileHashes(notes)
    assert hashes.known(file) == WeightsFile("a.ckpt", 7, "")
    assert hashes.of(file) == hashes.known(file)
    file.write_bytes(b"others")
    assert hashes.known(file) == WeightsFile("a.ckpt", 6, "")
