"""Shards: tar files in WebDataset's format, with an index that has their counts.

A sample is some neighbouring members of one tar file whose names are the same up to the first dot: `target.<ending>`,
the image; `source.<ending>`, the control map, or `source.0.<ending>`, `source.1.<ending>`, ..., stacked by channel;
`txt`, the prompt. `index.json` beside the shards names them in the order by which their samples are numbered:
{"format": 1, "shards": [{"name": "shard-00000.tar", "samples": 1000}, ...]}.
"""

import json
import re
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from webdataset.gopen import gopen
from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from cldm.data.errors import DataError
from cldm.data.images import Member

INDEX_FILE = "index.json"
FORMAT = 1
_SCHEMES = ("http", "https", "gs", "hf")  # of URLs that webdataset opens without running a command of the user's
_ATTEMPTS = 5
_FIRST_WAIT = 1.0  # seconds before the second attempt; doubled from each to the next
_SOURCE = re.compile(r"source(?:\.(\d+))?\.[^.]+")


@dataclass(frozen=True)
class ShardSample:
    """One sample of a shard.

    Attributes:
        shard: Path or URL.
        number: In the shard, counted from 0.
        key: The name that its members share.
        sources: The control map's files.
        target: The image's file.
        prompt: May be empty.
    """

    shard: str
    number: int
    key: str
    sources: tuple[Member, ...]
    target: Member
    prompt: str

    @property
    def label(self) -> str:
        """What it is called in a contact sheet."""
        return self.key

    def __str__(self) -> str:
        return place_name(self.shard, self.number, self.key)


@dataclass(frozen=True)
class Shards:
    """All shards of a dataset.

    Attributes:
        where: What the user gave.
        urls: Paths and URLs, in the order by which samples are numbered.
        counts: Samples in each.
    """

    where: str
    urls: tuple[str, ...]
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.counts)

    def first(self, shard: int) -> int:
        """The number in the whole dataset of a shard's first sample."""
        return sum(self.counts[:shard])

    def name_of(self, index: int) -> str:
        """Which sample of which shard has this number in the whole dataset."""
        number = index
        for url, count in zip(self.urls, self.counts, strict=True):
            if number < count:
                return place_name(url, number)
            number -= count
        return f"item {index}, after the last of {self.where}"

    def read(self, shard: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Samples `start` to `stop` - 1 of a shard as webdataset gives them, with their numbers in it.

        Where a connection breaks, it is made anew and goes on with the next sample.

        Raises:
            DataError: If the shard is missing, damaged, or has another number of samples than its index says.
        """
        stop = self.counts[shard] if stop is None else stop
        for attempt in range(_ATTEMPTS):
            try:
                for number, raw in _raw_samples(self.urls[shard], self.counts[shard]):
                    if start <= number < stop:
                        yield number, raw
                        start = number + 1
                    if start == stop < self.counts[shard]:  # a whole shard is read to its end, for its count
                        return
                return
            except (OSError, EOFError, tarfile.TarError, ValueError) as error:
                if not is_url(self.urls[shard]) or attempt == _ATTEMPTS - 1:
                    raise DataError(_broken(self.urls[shard], start, error)) from error
                time.sleep(_FIRST_WAIT * 2**attempt)


def place_name(shard: str, number: int, key: str = "") -> str:
    """What errors call a sample."""
    return f"{shard}, sample {number}" + (f" (key {key})" if key else "")


def is_shards(where: str | Path) -> bool:
    """Whether a user means shards: an index, a folder with one, tar files, or a URL of any of them."""
    where = str(where)
    if is_url(where) or _is_tar(where) or Path(where).name == INDEX_FILE:
        return True
    return (Path(where).expanduser() / INDEX_FILE).is_file()


def is_url(where: str) -> bool:
    """Whether it has a scheme, as http: or pipe:; a Windows drive is none."""
    return re.match(r"\w{2,}:", where) is not None


def last_name(where: str) -> str:
    """The last part of a path, of one with braces, or of a URL, without what is not for all: folders, server, query."""
    if is_url(where):
        where = urlsplit(where).path
    elif "{" not in where:
        return Path(where).name
    where = where.rstrip("/")
    outside = [i for i, c in enumerate(where) if c == "/" and where.count("{", 0, i) == where.count("}", 0, i)]
    return re.sub(r"[^{},]*/", "", where[outside[-1] + 1 :] if outside else where)


def find_shards(where: str | Path) -> Shards:
    """The shards that a user means.

    Args:
        where: A folder with `index.json`, the index itself, or the tar files, as `data/shard-{00000..00099}.tar`, which
            are then those of the index beside them. Each may be a URL.

    Raises:
        FileNotFoundError: If there is no index, with the command that makes one.
        DataError: If the index is malformed or does not have the shards, or a URL is of another kind.
    """
    where = _checked(where)
    if _is_tar(where):
        urls = tuple(expand_urls(where))
        return _chosen(where, urls, read_index(_beside(urls[0], INDEX_FILE)))
    index = where if where.partition("?")[0].endswith(".json") else f"{where.rstrip('/')}/{INDEX_FILE}"
    listed = read_index(index)
    return Shards(where, tuple(listed), tuple(listed.values()))


def _checked(where: str | Path) -> str:
    """A path in the plainest form, or a URL of a known scheme."""
    if not is_url(str(where)):
        return str(Path(where).expanduser())
    if urlsplit(str(where)).scheme not in _SCHEMES:
        raise DataError(f"expected a path, or a URL of {', '.join(_SCHEMES)}, got {where}")
    return str(where)


def _chosen(where: str, urls: tuple[str, ...], listed: Mapping[str, int]) -> Shards:
    unknown = [url for url in urls if url not in listed]
    if unknown:
        raise DataError(
            f"{len(unknown)} of the {len(urls)} shards of {where} are not in their index: {unknown[0]}, ..."
        )
    return Shards(where, urls, tuple(listed[url] for url in urls))


def read_index(url: str) -> dict[str, int]:
    """Path or URL -> number of samples, of all shards in an index.

    Raises:
        FileNotFoundError: If it cannot be read, with the command that makes one.
        DataError: If it is malformed.
    """
    try:
        with gopen(url) as stream:
            content = stream.read()
    except OSError as error:
        raise FileNotFoundError(
            f"no index of shards at {url}: {error}. Make shards of a folder:\n"
            "    python tool_make_shards.py FOLDER OUTPUT\n"
            "or the index of tar files that are there:\n"
            "    python tool_make_shards.py 'SHARDS-{000..099}.tar' index.json"
        ) from error
    try:
        index = json.loads(content)
        if index["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {index['format']}")
        listed = {_beside(url, _safe(shard["name"])): int(shard["samples"]) for shard in index["shards"]}
        if not listed or len(listed) != len(index["shards"]) or min(listed.values()) < 1:
            raise ValueError("expected shards of different names, each with at least one sample")
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{url} is no index of shards: {error!r}; expected what tool_make_shards.py writes") from error
    return listed


def write_index(file: Path, counts: Mapping[str, int]) -> None:
    """Write an index; `file` has another name until it is complete."""
    listed = [{"name": name, "samples": count} for name, count in counts.items()]
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_text(json.dumps({"format": FORMAT, "shards": listed}, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(file)


def count_samples(url: str) -> int:
    """How many samples a shard has, by reading it; only the names where it is a file.

    Raises:
        DataError: If it is missing or damaged.
    """
    try:
        if is_url(url):
            return sum(1 for _ in _raw_samples(url))
        with tarfile.open(url) as archive:
            names = [member.name for member in archive if member.isreg()]
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        raise DataError(_broken(url, 0, error)) from error
    return sum(1 for key, _ in groupby(base_plus_ext(name)[0] for name in names) if key)


def as_sample(shard: str, number: int, raw: Mapping[str, Any]) -> ShardSample:
    """A sample of the members that `Shards.read` gives.

    Raises:
        DataError: If a member is missing; names the sample.
    """
    key, where = raw["__key__"], place_name(shard, number, raw["__key__"])
    members = {name: Member(f"{key}.{name}", content) for name, content in raw.items() if not name.startswith("__")}
    targets = [name for name in members if re.fullmatch(r"target\.[^.]+", name)]
    sources = sorted((int(match[1] or 0), name) for name in members if (match := _SOURCE.fullmatch(name)))
    for what, found in (("target.png", targets), ("source.png", sources), ("txt", "txt" in members)):
        if not found:
            raise DataError(f"{where}: no member {key}.{what} (or another ending), got {', '.join(sorted(members))}")
    if [place for place, _ in sources] != list(range(len(sources))) or len(targets) > 1:
        raise DataError(f"{where}: expected one target, and sources numbered from 0, got {', '.join(sorted(members))}")
    try:
        prompt = members["txt"].content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: the prompt is not UTF-8: {error}") from error
    return ShardSample(shard, number, key, tuple(members[name] for _, name in sources), members[targets[0]], prompt)


def _raw_samples(url: str, expected: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    number = -1
    with gopen(url) as stream:
        for number, raw in enumerate(group_by_keys(tar_file_expander([{"url": url, "stream": stream}]))):
            yield number, raw
    if expected is not None and number + 1 != expected:
        raise ValueError(f"it has {number + 1} samples, and {expected} by its index: cut short, or changed")


def _broken(url: str, number: int, error: Exception) -> str:
    problem = str(error.args[0]) if error.args else repr(error)
    return (
        f"cannot read {place_name(url, number)}: {type(error).__name__}: {problem}. Make this shard again, or get it "
        "anew; python tutorial_dataset.py checks all"
    )


def _is_tar(where: str) -> bool:
    return where.partition("?")[0].endswith((".tar", ".tar}"))


def _safe(name: Any) -> str:
    """A shard's name in an index, which may come from anywhere: below the index, or at a web address."""
    if urlsplit(str(name)).scheme in ("http", "https"):
        return name
    if not name or is_url(name) or name.startswith(("/", "\\")) or ".." in name.split("/"):
        raise ValueError(f"expected a shard's name to be a path below the index, or a web address, got {name!r}")
    return name


def _beside(url: str, name: str) -> str:
    """The URL or path of a file beside another."""
    if is_url(name):
        return name
    if not is_url(url):
        return str(Path(url).parent / name)
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rpartition('/')[0]}/{name}").geturl()
