"""A worker's memory that survives it: one file, a line for every hold and every settlement.

Written with one `write` a line before the request goes on, so kill -9 loses nothing that was said;
the system's crash may lose the last lines, which then count as running or, unseen, as lost slices.
The worker holds a lock on the file; the system drops it with the process, and whoever gets it next
may recover what the file says. Rewritten from memory when it has grown, by rename, under the lock.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from headrace.errors import ConfigError
from headrace.store.entries import HELD, Entry, decode, encode

_SUFFIX = ".journal"
_REWRITE_BYTES = 4 << 20


class Remains(NamedTuple):
    """What a dead worker left."""

    worker: str
    ended: list[Entry]
    running: list[Entry]


class Journal:
    """Of this process; `close` it when nothing is owed any more."""

    def __init__(self, directory: Path, worker: str) -> None:
        self.worker = worker
        self._path = directory / f"{worker}{_SUFFIX}"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(directory / f"{worker}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file = self._create(self._path)
        except OSError as error:
            raise ConfigError(
                f"cannot keep the journal {self._path}: {error.strerror}; set paths.state_dir to a "
                "directory you may write"
            ) from error
        self._size = 0

    def write(self, entry: Entry) -> None:
        """Append a line."""
        line = encode(entry) + b"\n"
        os.write(self._file, line)
        self._size += len(line)

    def rewrite_if_large(self, entries: Iterable[Entry]) -> None:
        """Keep these lines only, where the file has grown."""
        if self._size < _REWRITE_BYTES:
            return
        data = b"".join(encode(entry) + b"\n" for entry in entries)
        other = self._path.with_suffix(".new")
        handle = self._create(other)
        os.write(handle, data)
        other.rename(self._path)
        os.close(self._file)
        self._file, self._size = handle, len(data)

    def close(self) -> None:
        """Remove it: everything in it was booked."""
        self._path.unlink(missing_ok=True)
        self._path.with_suffix(".lock").unlink(missing_ok=True)
        os.close(self._file)
        os.close(self._lock)

    @staticmethod
    def _create(path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)


class Orphan:
    """A dead worker's journal, locked by us until it is closed."""

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock

    def read(self) -> Remains:
        """Its lines; one that was cut off in the middle is as if never written."""
        running: dict[str, Entry] = {}
        ended: dict[str, Entry] = {}
        for line in self._path.read_bytes().split(b"\n"):
            with contextlib.suppress(msgspec.DecodeError):
                entry = decode(line)
                if entry.kind == HELD:
                    running[entry.id] = entry
                else:
                    ended[entry.id] = entry
                    running.pop(entry.id, None)
        return Remains(self._path.stem, list(ended.values()), list(running.values()))

    def remove(self) -> None:
        """Everything in it was booked."""
        self._path.unlink(missing_ok=True)
        self._path.with_suffix(".lock").unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._lock)


def orphans(directory: Path) -> Iterable[Orphan]:
    """Journals in a directory whose workers are dead; each closed before the next."""
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        with contextlib.suppress(OSError):
            lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                continue
            orphan = Orphan(path, lock)
            try:
                if path.exists():
                    yield orphan
            finally:
                orphan.close()
