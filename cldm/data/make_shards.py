"""A dataset to shards: written one whole shard at a time, so that an interrupted conversion goes on."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm
from webdataset import TarWriter
from webdataset.shardlists import expand_urls

from cldm.data.images import File, Member
from cldm.data.pairs import Sample, naming
from cldm.data.rows import Row, find_dataset, read_rows
from cldm.data.shards import INDEX_FILE, Shards, as_sample, count_samples, find_shards, is_shards, write_index
from cldm.weights.saving import written_whole

RECIPE_FILE = "shards_recipe.json"
_RECIPE_VERSION = 1  # raise it when the same input gives other files than before


def make_shards(dataset: str | Path, output: str | Path, samples: int = 1000, seed: int | None = 0) -> Path:
    """Write a dataset's files, byte for byte, into shards, or what is missing of them after an interruption.

    Args:
        dataset: A folder with `prompt.json`, or other shards.
        output: Folder to make; may be there if it is empty or was begun with the same arguments.
        samples: In a shard; the last one may have fewer.
        seed: Of the order in which a folder's rows are written, so that neighbours there are not neighbours in shards;
            None keeps their order. Shards are always read in theirs.

    Returns:
        The index, which is written last.

    Raises:
        FileNotFoundError: If the dataset or a file of it is missing.
        ValueError: If a number is out of its range, a row is malformed, or the folder holds anything else.
    """
    if samples < 1 or (seed is not None and seed < 0):
        raise ValueError(f"samples must be at least 1, and the seed 0 or more, got {samples} and {seed}")
    source = find_shards(dataset) if is_shards(dataset) else _ordered(read_rows(find_dataset(dataset)), seed)
    output = Path(output).expanduser()
    _claim(output, {"version": _RECIPE_VERSION, "of": _fingerprint(source), "samples": samples, "seed": seed})
    starts = range(0, len(source), samples)
    names = [f"shard-{number:05}.tar" for number in range(len(starts))]
    counts = {name: min(samples, len(source) - start) for name, start in zip(names, starts, strict=True)}
    for stale in output.glob(".shard-*.unfinished"):  # of a process that was killed
        stale.unlink()
    with tqdm(total=len(source), desc=output.name, unit="sample") as progress:
        for name, start in zip(names, starts, strict=True):
            if not (output / name).exists():
                _write_shard(output / name, islice(_from(source, start), counts[name]), start)
            progress.update(counts[name])
    if not (output / INDEX_FILE).exists():
        write_index(output / INDEX_FILE, counts)
    return output / INDEX_FILE


def index_shards(shards: str, index: Path) -> Path:
    """Write the index of tar files that are there already, by counting their samples.

    Args:
        shards: Paths or URLs, with braces where they are several.
        index: The file to write. Shards in its folder are named by their names alone, so that all can be moved.

    Raises:
        FileExistsError: If there is something of that name.
        ValueError: If a shard is missing, damaged or empty.
    """
    urls = expand_urls(str(shards))
    counts = {}
    for url in tqdm(urls, desc="counting", unit="shard"):
        beside = Path(url).parent.resolve() == index.parent.resolve()
        if not beside and not url.startswith(("http:", "https:")):
            raise ValueError(f"{url} is in another folder than the index; write it to {Path(url).parent / INDEX_FILE}")
        counts[Path(url).name if beside else url] = count_samples(url)
    empty = [name for name, count in counts.items() if not count]
    if empty:
        raise ValueError(f"{empty[0]} has no samples")
    if index.exists():
        raise FileExistsError(f"{index} exists and is not overwritten; remove it first")
    write_index(index, counts)
    return index


def _ordered(rows: list[Row], seed: int | None) -> list[Row]:
    return rows if seed is None else [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def _fingerprint(source: Sequence[Row] | Shards) -> str:
    """SHA-256 of what the shards' content follows from, but for the files' own content."""
    digest = hashlib.sha256()
    if isinstance(source, Shards):
        digest.update(repr((source.urls, source.counts)).encode())
        return digest.hexdigest()
    for row in source:
        names = [row.name_in_folder(file) for file in (*row.sources, row.target)]
        digest.update(json.dumps([row.line, names, row.prompt]).encode())
    return digest.hexdigest()


def _claim(output: Path, recipe: dict) -> None:
    """Mark a new folder with what is made in it, or check that the same began it."""
    content, file = json.dumps(recipe, indent=1) + "\n", output / RECIPE_FILE
    if file.is_file():
        if file.read_text(encoding="utf-8") != content:
            raise ValueError(
                f"{output} was begun with another dataset or other arguments; give the same ones to go on, or another "
                "folder as output, or delete it"
            )
        return
    output.mkdir(parents=True, exist_ok=True)
    found = sorted(path.name for path in output.iterdir())
    if found:
        raise ValueError(f"{output} holds files that were not made here, as {found[0]}; give another folder as output")
    with written_whole(file) as unfinished:
        unfinished.write_text(content, encoding="utf-8")


def _from(source: Sequence[Row] | Shards, start: int) -> Iterator[Sample]:
    """The samples from a number on."""
    if not isinstance(source, Shards):
        yield from islice(source, start, None)
        return
    for shard, (url, count) in enumerate(zip(source.urls, source.counts, strict=True)):
        if start < count:
            for number, raw in source.read(shard, start):
                yield as_sample(url, number, raw)
        start = max(0, start - count)


def _write_shard(file: Path, samples: Iterator[Sample], first: int) -> None:
    same_bytes = {"user": "", "group": "", "mtime": 0}  # whenever and by whomever it is made
    with (
        written_whole(file) as unfinished,
        unfinished.open("wb") as stream,
        TarWriter(stream, encoder=False, **same_bytes) as writer,
    ):
        for number, sample in enumerate(samples, start=first):
            with naming(sample):
                writer.write({"__key__": _key(number, sample), **_members(sample)})


def _key(number: int, sample: Sample) -> str:
    """The sample's number in the whole, and the line that it had in a folder, for people who look for it."""
    return f"{number:09}" + (f"_line{sample.line}" if isinstance(sample, Row) else "")


def _members(sample: Sample) -> dict[str, bytes]:
    sources = sample.sources
    names = ["source"] if len(sources) == 1 else [f"source.{i}" for i in range(len(sources))]
    members = {f"{name}.{_ending(file)}": _content(file) for name, file in zip(names, sources, strict=True)}
    return {**members, f"target.{_ending(sample.target)}": _content(sample.target), "txt": sample.prompt.encode()}


def _content(file: File) -> bytes:
    try:
        return file.content if isinstance(file, Member) else file.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no file at {file}") from error


def _ending(file: File) -> str:
    return str(file).rpartition(".")[2].lower() if "." in Path(str(file)).name else "image"
