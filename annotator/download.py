"""Get published files from their hub: whole, checked, and able to go on after an interruption."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers

from annotator.manifest import CheckpointFile, Source

_NOT_THERE = (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
_SHA256_DIGITS = 64


class DownloadError(OSError):
    """A file could not be had; says why and what to do."""


class Remote(NamedTuple):
    """A file on the hub: where it is and what the hub says of it."""

    url: str
    size: int
    etag: str

    @property
    def sha256(self) -> str:
        """What the hub promises for large files; empty for others, which have another kind of tag."""
        tag = self.etag.lower()
        return tag if len(tag) == _SHA256_DIGITS and set(tag) <= set("0123456789abcdef") else ""


def download(entry: CheckpointFile, folder: Path, replace: bool = False) -> Path:
    """Put a published file into a folder; it appears there whole and checked, or not at all.

    What has arrived is kept beside it as `FILE.VERSION.part`, from which the next call goes on. While another process
    downloads the same file, this waits and then takes its. The hub is that of the environment variable HF_ENDPOINT, by
    default huggingface.co.

    Args:
        entry: What to get.
        folder: Where to; made if it is not there.
        replace: Whether a file of that name may be replaced.

    Returns:
        Where it is.

    Raises:
        FileExistsError: If there is another file of that name.
        DownloadError: If it cannot be had, or is not what was published.
    """
    target = folder / entry.file
    before = _identity(target)
    if before and not replace:
        _check_existing(target, entry)
        return target
    remote = _find(entry)
    folder.mkdir(parents=True, exist_ok=True)
    version = hashlib.sha256(remote.etag.encode()).hexdigest()[:8]
    part = folder / f"{entry.file}.{version}.part"
    with _locked(target):
        if _identity(target) != before:
            return target  # put there by another process meanwhile
        _fetch(remote, part, entry)
        problem = _problem(part, entry, remote)
        if problem:
            part.unlink()
            raise DownloadError(
                f"{remote.url} gave something else than {entry.file}: {problem}. It was removed; run the same command "
                "again, and if this comes again, look at the page in a browser, or at HF_ENDPOINT and the proxy"
            )
        os.replace(part, target)
    return target


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Have a file's download to oneself, once others are done with it."""
    lock = target.with_name(f".{target.name}.lock")
    with WeakFileLock(lock):
        try:
            yield
        finally:
            with suppress(OSError):  # of Windows, which removes no open file
                lock.unlink()


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one that takes its place; None for none."""
    if not path.exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _check_existing(path: Path, entry: CheckpointFile) -> None:
    problem = _problem(path, entry)
    if problem:
        raise FileExistsError(
            f"{path} is there, but it is not the published file: {problem}. Move it away, or replace it with --replace"
        )


def _problem(path: Path, entry: CheckpointFile, remote: Remote | None = None) -> str:
    """Why a file cannot be the published one; empty if it can."""
    size = path.stat().st_size
    for expected in (entry.size, remote.size if remote else None):
        if expected is not None and size != expected:
            return _kind_problem(path, entry) or f"it has {size} bytes, expected were {expected}"
    if problem := _kind_problem(path, entry):
        return problem
    known = [digits for digits in (entry.sha256, remote.sha256 if remote else "") if digits]
    if known:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        for digits in known:
            if not found.startswith(digits):
                return f"its SHA-256 is {found}, expected was {digits}"
    return ""


def _kind_problem(path: Path, entry: CheckpointFile) -> str:
    """Says so if a file's first bytes are not those of a checkpoint."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.lstrip().startswith(b"<"):
        return f"it is a web page, starting with {start.lstrip()[:40]!r}"
    if Path(entry.file).suffix == ".safetensors":
        right = start[8:9] == b"{"  # after the length of the header
    else:
        right = start.startswith((b"PK\x03\x04", b"\x80"))  # an archive; a pickle as PyTorch wrote until 1.6
    return "" if right else f"it is no checkpoint, starting with {start[:16]!r}"


def _find(entry: CheckpointFile) -> Remote:
    """The first of an entry's sources that has the file."""
    reasons = []
    for source in entry.sources:
        try:
            return _ask(source, entry)
        except _NOT_THERE as error:
            reasons.append(f"{source.path} in {source.repository}: {_words(error)}")
    raise DownloadError(f"{entry.file} is not to be had: {'; '.join(reasons)}")


def _ask(source: Source, entry: CheckpointFile) -> Remote:
    """What the hub says of a file; the address is that of the version it has today."""
    url = hf_hub_url(source.repository, source.path)
    try:
        found = get_hf_file_metadata(url)
    except _NOT_THERE:
        raise
    except (HTTPError, OSError) as error:
        raise DownloadError(f"cannot ask for {entry.file} at {url}: {_words(error)}") from error
    if not (found.commit_hash and found.etag and found.size):
        raise DownloadError(
            f"{url} was answered by something else than a hub, such as a login page or a proxy; open it in a browser, "
            "and check HF_ENDPOINT"
        )
    return Remote(hf_hub_url(source.repository, source.path, revision=found.commit_hash), found.size, found.etag)


def _fetch(remote: Remote, part: Path, entry: CheckpointFile) -> None:
    """Append to `part` what is missing of it."""
    done = part.stat().st_size if part.exists() else 0
    if done > remote.size:
        part.unlink()
        done = 0
    free = shutil.disk_usage(part.parent).free
    if free < remote.size - done:
        raise DownloadError(
            f"{entry.file} needs {(remote.size - done) / 1e6:.0f} MB in {part.parent}, where {free / 1e6:.0f} are free"
        )
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    try:
        with part.open("ab") as file:
            http_get(
                remote.url,
                file,
                resume_size=done,
                headers=headers,
                expected_size=remote.size,
                displayed_filename=entry.file,
            )
    except HTTPError as error:
        raise DownloadError(f"{entry.file} was cut off: {_words(error)}. {_kept(part, remote)}") from error
    except OSError as error:
        if error.errno is not None:  # without one, the length is not what was promised, which the check will find
            raise DownloadError(f"cannot write {part}: {error}. {_kept(part, remote)}") from error


def _kept(part: Path, remote: Remote) -> str:
    done = part.stat().st_size
    return f"{done / 1e6:.1f} of {remote.size / 1e6:.1f} MB are kept; the same command goes on from there"


def _words(error: Exception, limit: int = 300) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= limit else f"{words[:limit]} ..."
