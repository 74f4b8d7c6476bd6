"""SHA-256 of files, each computed once and in the background, and where a file of a hash was last seen."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from cldm.records.record import WeightsFile
from cldm.weights.saving import written_whole

_NOTES = "controlnet/hashes.json"
_MOST_NOTES = 500  # files; the oldest are forgotten


def notes_file() -> Path:
    """Where hashes are noted: `$CONTROLNET_HASHES`, or `controlnet/hashes.json` in the user's folder of caches."""
    if given := os.environ.get("CONTROLNET_HASHES"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / _NOTES


class FileHashes:
    """Hashes of files, noted by path, size and time of change, so that each file is read for it once.

    Args:
        notes: File of the notes; by default `notes_file()`. Where it cannot be written, hashes are kept in memory.
    """

    def __init__(self, notes: Path | None = None):
        self.notes = notes_file() if notes is None else notes
        self._memory: dict[str, dict[str, Any]] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="hashes")

    def begin(self, paths: Sequence[str | Path]) -> "Future[tuple[WeightsFile, ...]]":
        """Hash files in a thread of its own, which holds nothing up: Python hashes without its lock.

        Asked for when a model has been loaded, its files are in the page cache, and the hashes are there long before
        the first image is; `result()` waits where they are not.
        """
        files = [Path(path) for path in paths]
        return self._worker.submit(lambda: tuple(self.of(file) for file in files))

    def of(self, path: str | Path) -> WeightsFile:
        """A file's name, size and hash.

        Raises:
            OSError: If it cannot be read.
        """
        if (known := self.known(path)).sha256:
            return known
        path = Path(path).resolve()
        state = _state(path)
        with path.open("rb") as file:
            noted = {**state, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        if _state(path) == state:  # nobody wrote to it meanwhile
            self._note(path, noted)
        return WeightsFile(known.name, noted["bytes"], noted["sha256"])

    def known(self, path: str | Path) -> WeightsFile:
        """As `of`, without reading the file: the hash is empty if it is not noted.

        Raises:
            OSError: If there is no such file.
        """
        name, path = Path(path).name, Path(path).resolve()  # a hub's cache has links to files named by their hashes
        state = _state(path)
        noted = self._noted().get(str(path), {})
        is_current = {key: noted.get(key) for key in state} == state
        return WeightsFile(name, state["bytes"], noted["sha256"] if is_current else "")

    def find(self, wanted: WeightsFile, folders: Sequence[Path] = ()) -> Path | None:
        """A file of that content: where it was last seen, or else in folders, under any name.

        Args:
            wanted: Its size and its hash decide.
            folders: To look into, not into folders in them.
        """
        seen = [Path(path) for path, noted in self._noted().items() if noted.get("sha256") == wanted.sha256]
        inside = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
        for path in (*seen, *inside):
            if path.is_file() and path.stat().st_size == wanted.bytes and self.of(path).sha256 == wanted.sha256:
                return path
        return None

    def _noted(self) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads(self.notes.read_bytes())
        except (OSError, ValueError):
            content = {}
        content = content if isinstance(content, dict) else {}
        return {path: noted for path, noted in {**content, **self._memory}.items() if _is_note(noted)}

    def _note(self, path: Path, noted: dict[str, Any]) -> None:
        self._memory[str(path)] = noted
        notes = self._noted()
        newest_last = {**{name: notes[name] for name in notes if name != str(path)}, str(path): noted}
        kept = dict(list(newest_last.items())[-_MOST_NOTES:])
        with suppress(OSError):  # without notes, the next process hashes anew
            self.notes.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(self.notes, replace=True) as unfinished:
                unfinished.write_text(json.dumps(kept, indent=1) + "\n")


def _is_note(noted: Any) -> bool:
    return isinstance(noted, dict) and isinstance(noted.get("sha256"), str) and isinstance(noted.get("bytes"), int)


def _state(path: Path) -> dict[str, int]:
    state = path.stat()
    return {"bytes": state.st_size, "changed": state.st_mtime_ns}
