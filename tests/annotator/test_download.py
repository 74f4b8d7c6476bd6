"""Downloads, from a hub on this machine."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import huggingface_hub.constants
import numpy as np
import pytest

from annotator import download as module
from annotator.download import DownloadError, download
from annotator.manifest import CheckpointFile, Source
from local_hub import WEB_PAGE, Hub, local_hub

CONTENT = b"PK\x03\x04" + np.random.default_rng(0).bytes(300_000)
ENTRY = CheckpointFile("net.pth", 0.3, (Source("ours/first", "ckpts/net.pth"), Source("ours/second", "net.pth")))
WHERE = "ours/first/ckpts/net.pth"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with local_hub(files={WHERE: CONTENT}) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what is written at a time
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        yield hub


def test_a_full_download_arrives_whole_and_leaves_nothing_else(hub, tmp_path):
    folder = tmp_path / "new" / "ckpts"
    assert download(ENTRY, folder) == folder / "net.pth"
    assert (folder / "net.pth").read_bytes() == CONTENT
    assert [path.name for path in folder.iterdir()] == ["net.pth"]


def test_what_is_there_is_checked_but_not_downloaded(hub, tmp_path):
    (tmp_path / "net.pth").write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    for entry in (ENTRY, ENTRY._replace(sha256=digest[:8], size=len(CONTENT))):
        assert download(entry, tmp_path) == tmp_path / "net.pth"
    assert hub.asked == []


@pytest.mark.parametrize(
    ("entry", "content", "problem"),
    [
        (ENTRY._replace(sha256="0123abcd"), CONTENT, r"its SHA-256 is [0-9a-f]{64}, expected was 0123abcd"),
        (ENTRY._replace(size=7), CONTENT, "it has 300004 bytes, expected were 7"),
        (ENTRY, WEB_PAGE, "it is a web page, starting with b'<!DOCTYPE html>"),
        (ENTRY, b"", "it is no checkpoint, starting with b''"),
        (ENTRY._replace(file="net.safetensors"), CONTENT, "it is no checkpoint, starting with b'PK"),
    ],
)
def test_another_file_of_that_name_is_neither_taken_nor_replaced(hub, tmp_path, entry, content, problem):
    (tmp_path / entry.file).write_bytes(content)
    with pytest.raises(FileExistsError, match=rf"{entry.file} is there, but .*: {problem}.*--replace"):
        download(entry, tmp_path)
    assert (tmp_path / entry.file).read_bytes() == content
    assert hub.asked == []


def test_it_is_replaced_on_request(hub, tmp_path):
    (tmp_path / "net.pth").write_bytes(b"PK\x03\x04 mine")
    download(ENTRY, tmp_path, replace=True)
    assert (tmp_path / "net.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("replace", [False, True])
def test_two_who_want_one_file_get_it_by_one_download(hub, tmp_path, monkeypatch, replace):
    if replace:
        (tmp_path / "net.pth").write_bytes(b"PK\x03\x04 mine")
    find, meeting = module._find, Barrier(2, timeout=60)

    def find_together(entry):
        meeting.wait()
        return find(entry)

    monkeypatch.setattr(module, "_find", find_together)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(download, ENTRY, tmp_path, replace) for _ in range(2)]
        assert [each.result() for each in both] == [tmp_path / "net.pth"] * 2
    assert (tmp_path / "net.pth").read_bytes() == CONTENT
    assert hub.downloads() == [None]
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]


def test_a_cut_download_goes_on_within_the_call(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.cut_after = 200_000
    download(ENTRY, tmp_path)
    assert (tmp_path / "net.pth").read_bytes() == CONTENT
    assert hub.downloads() == [None, "bytes=200000-"]


def test_a_cut_download_is_kept_and_goes_on_with_the_next_call(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.cut_after, hub.answers = 100_000, 1
    with pytest.raises(DownloadError, match=r"net\.pth was cut off: .*0\.1 of 0\.3 MB are kept; the same command"):
        download(ENTRY, tmp_path)
    (part,) = tmp_path.iterdir()
    assert part.name.startswith("net.pth.")
    assert part.suffix == ".part"
    assert part.read_bytes() == CONTENT[:100_000]
    hub.cut_after = hub.answers = None
    hub.asked.clear()
    download(ENTRY, tmp_path)
    assert (tmp_path / "net.pth").read_bytes() == CONTENT
    assert hub.downloads() == ["bytes=100000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]


def test_a_part_of_another_version_is_not_gone_on_with(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.cut_after, hub.answers = 100_000, 1
    with pytest.raises(DownloadError):
        download(ENTRY, tmp_path)
    newer = CONTENT[:4] + CONTENT[:3:-1]
    hub.files, hub.cut_after, hub.answers = {WHERE: newer}, None, None
    download(ENTRY, tmp_path)
    assert (tmp_path / "net.pth").read_bytes() == newer


def corrupted() -> bytes:
    changed = bytearray(CONTENT)
    changed[150_000] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (corrupted(), r"its SHA-256 is [0-9a-f]{64}, expected was [0-9a-f]{64}"),
        (CONTENT[:1000], "it has 1000 bytes, expected were 300004"),
        (CONTENT + b"more", "it has 300008 bytes, expected were 300004"),
        (WEB_PAGE, "it is a web page"),
        (WEB_PAGE.ljust(len(CONTENT)), "it is a web page"),
    ],
)
def test_what_arrives_wrong_is_removed_and_never_takes_the_place(hub, tmp_path, sent, problem):
    hub.sent = sent
    with pytest.raises(DownloadError, match=rf"gave something else than net\.pth: {problem}.* It was removed; run"):
        download(ENTRY, tmp_path)
    assert list(tmp_path.iterdir()) == []
    hub.sent = None
    download(ENTRY, tmp_path)
    assert (tmp_path / "net.pth").read_bytes() == CONTENT


def test_what_the_manifest_knows_counts_where_the_hub_says_nothing(hub, tmp_path):
    hub.has_hashes, hub.sent = False, corrupted()
    with pytest.raises(DownloadError, match="expected was 0123abcd"):
        download(ENTRY._replace(sha256="0123abcd"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_login_page_in_the_place_of_the_hub(hub, tmp_path):
    hub.behind_login = True
    with pytest.raises(DownloadError, match="answered by something else than a hub, such as a login page"):
        download(ENTRY, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gone", ["the file", "the repository"])
def test_the_second_source_is_used_where_the_first_is_gone(hub, tmp_path, gone):
    hub.files = {"ours/second/net.pth": CONTENT}
    if gone == "the file":
        hub.files["ours/first/other.pth"] = b""
    download(ENTRY, tmp_path)
    assert (tmp_path / "net.pth").read_bytes() == CONTENT


def test_a_file_that_is_nowhere_names_all_places(hub, tmp_path):
    hub.files = {}
    with pytest.raises(DownloadError, match=r"net\.pth is not to be had: .*in ours/first: .*in ours/second: "):
        download(ENTRY, tmp_path)


def test_no_hub_at_all(hub, tmp_path, monkeypatch):
    nowhere = "http://127.0.0.1:9"  # the discard port, where nothing listens
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        nowhere + "/{repo_id}/resolve/{revision}/{filename}",
    )
    with pytest.raises(DownloadError, match=rf"cannot ask for net\.pth at {nowhere}.*"):
        download(ENTRY, tmp_path)


def test_a_full_disk_is_said_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 200_000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match=r"net\.pth needs 0 MB in .*, where 0 are free"):
        download(ENTRY, tmp_path)
    assert hub.downloads() == []
