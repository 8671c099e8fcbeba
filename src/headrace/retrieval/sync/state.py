"""What was done about every item of every source: the status table, and what resuming needs.

A SQLite file beside the index. The index is the truth: a state that is behind it, or lost, costs
reading and hashing again, never a wrong answer and never an embedding. It holds no text of a
document but its title and what its status says, and of a deleted one nothing.

Calls are short and synchronous; whoever calls from a loop may do so directly.
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

from headrace.errors import Conflict, StoreUnavailable

_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS items (
    source TEXT NOT NULL, key TEXT NOT NULL, document TEXT NOT NULL, outcome TEXT NOT NULL,
    reason TEXT NOT NULL, detail TEXT NOT NULL, notes TEXT NOT NULL, revision TEXT NOT NULL,
    content TEXT NOT NULL, facts TEXT NOT NULL, text TEXT NOT NULL, way TEXT NOT NULL,
    title TEXT NOT NULL, modified_s REAL NOT NULL, size_bytes INTEGER NOT NULL,
    chunks INTEGER NOT NULL, checked_s REAL NOT NULL, indexed_s REAL NOT NULL,
    signature BLOB NOT NULL, PRIMARY KEY (source, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS items_document ON items (document);
CREATE TABLE IF NOT EXISTS sources (
    source TEXT PRIMARY KEY, listed_s REAL NOT NULL, failed TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pairs (
    a TEXT NOT NULL, b TEXT NOT NULL, texts TEXT NOT NULL, verdict TEXT NOT NULL,
    PRIMARY KEY (a, b)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notices (document TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""


class Outcome(StrEnum):
    SEARCHABLE = "searchable"
    FAILED = "failed"
    SKIPPED = "skipped"
    """It says what another one says that has the same readers; `detail` names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """One row of the table."""

    source: str
    key: str
    document: str
    outcome: Outcome
    reason: str = ""
    """Why it failed: a value of `Unreadable`, or `duplicate`. Of a searchable one: `stale` where
    its source could not give it when it was last asked for."""
    detail: str = ""
    notes: tuple[str, ...] = ()
    revision: str = ""
    content: str = ""
    """SHA-256 of its bytes."""
    facts: str = ""
    """Digest of what its source says of it beside its bytes."""
    text: str = ""
    """SHA-256 of its text."""
    way: str = ""
    """Digest of how it was parsed and cut."""
    title: str = ""
    modified_s: float = 0.0
    size_bytes: int = 0
    chunks: int = 0
    checked_s: float = 0.0
    """When it was last known to say this."""
    indexed_s: float = 0.0
    signature: bytes = b""
    """MinHash, for near duplicates."""


_FIELDS = tuple(field.name for field in fields(Status))
_COLUMNS = ", ".join(_FIELDS)


class SyncState:
    """Open one with `SyncState.open`; `close` it in the end. One thread at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> "SyncState":
        """The table in a file, made where there is none; outside of the index' own directory.

        Raises: StoreUnavailable: It cannot be read or written, or another version made it.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=30.0, check_same_thread=False)
            connection.execute("PRAGMA secure_delete=ON")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                connection.close()
                raise StoreUnavailable(
                    f"{path} is of version {version}, this is {_VERSION}; delete it: the next sync "
                    "makes it anew and embeds nothing again"
                )
            with connection:
                connection.executescript(_TABLES)
                connection.execute(f"PRAGMA user_version={_VERSION}")
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"cannot open {path}: {error}") from error
        return cls(path, connection)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def exclusive(self) -> Generator[None]:
        """Keep other processes from changing the same index meanwhile.

        Raises: Conflict: One does.
        """
        file = os.open(self.path.with_name(self.path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Conflict(
                    f"another process brings documents into this index ({self.path}); try again "
                    "when it is done"
                ) from None
            yield
        finally:
            os.close(file)

    # --- the table --------------------------------------------------------------------------------

    def of_source(self, source: str) -> dict[str, Status]:
        """All rows of a source by key."""
        return {row.key: row for row in self._rows("WHERE source = ?", (source,))}

    def statuses(
        self, *, source: str | None = None, outcome: Outcome | None = None
    ) -> Iterator[Status]:
        """Rows, by source and key."""
        asked = {"source": source, "outcome": outcome}
        said = {name: value for name, value in asked.items() if value is not None}
        where = " AND ".join(f"{name} = ?" for name in said)
        return self._rows(f"WHERE {where}" if where else "", tuple(said.values()))

    def of_document(self, document: str) -> Status | None:
        """The row of a document."""
        return next(self._rows("WHERE document = ?", (document,)), None)

    def saying(self, text: str) -> list[str]:
        """Documents that are searchable and say this, by the digest of their text."""
        found = self._connection.execute(
            "SELECT document FROM items WHERE text = ? AND outcome = ? ORDER BY document LIMIT 10",
            (text, Outcome.SEARCHABLE),
        )
        return [one for (one,) in found]

    def record(self, rows: Sequence[Status]) -> None:
        """Write rows in one transaction."""
        marks = ", ".join("?" * len(_FIELDS))
        values = [
            tuple(
                json.dumps(row.notes) if name == "notes" else getattr(row, name) for name in _FIELDS
            )
            for row in rows
        ]
        with self._changing():
            self._connection.executemany(
                f"INSERT OR REPLACE INTO items ({_COLUMNS}) VALUES ({marks})", values
            )

    def checked(self, source: str, keys: Sequence[str], now_s: float) -> None:
        """Say that these are known to be unchanged now."""
        with self._changing():
            self._connection.executemany(
                "UPDATE items SET checked_s = ? WHERE source = ? AND key = ?",
                [(now_s, source, key) for key in keys],
            )

    def forget(self, source: str, keys: Sequence[str]) -> None:
        """Delete rows, and what is known of their documents beside others."""
        with self._changing():
            for key in keys:
                self._connection.execute(
                    "WITH gone AS (SELECT document FROM items WHERE source = ? AND key = ?) "
                    "DELETE FROM pairs WHERE a IN gone OR b IN gone",
                    (source, key),
                )
                self._connection.execute(
                    "DELETE FROM items WHERE source = ? AND key = ?", (source, key)
                )

    def counts(self) -> Mapping[tuple[str, str], int]:
        """(source, outcome) → items."""
        found = self._connection.execute(
            "SELECT source, outcome, count(*) FROM items GROUP BY 1, 2"
        )
        return {(source, outcome): count for source, outcome, count in found}

    # --- sources ----------------------------------------------------------------------------------

    def listed(self, source: str, at_s: float) -> None:
        """A sync that began then has brought everything over."""
        self._source(source, listed_s=at_s, failed="")

    def failed(self, source: str, why: str) -> None:
        """A sync did not come to its end."""
        self._source(source, listed_s=self.last_listed(source), failed=why)

    def last_listed(self, source: str) -> float:
        """When the last whole sync of a source began; 0 = never."""
        found = self._connection.execute(
            "SELECT listed_s FROM sources WHERE source = ?", (source,)
        ).fetchone()
        return found[0] if found else 0.0

    def failure(self, source: str) -> str:
        """Why the last sync did not come to its end; empty = it did."""
        found = self._connection.execute(
            "SELECT failed FROM sources WHERE source = ?", (source,)
        ).fetchone()
        return found[0] if found else ""

    def stale_since(self, source: str) -> float:
        """When the first item that its source cannot give now was last known; 0 = there is none."""
        (found,) = self._connection.execute(
            "SELECT min(checked_s) FROM items WHERE source = ? AND reason IN ('stale', "
            "'unavailable')",
            (source,),
        ).fetchone()
        return found or 0.0

    def sources(self) -> list[str]:
        """Those that a sync of was tried."""
        found = self._connection.execute("SELECT source FROM sources ORDER BY source")
        return [one for (one,) in found]

    def drop_source(self, source: str) -> None:
        """Forget a source whole."""
        self.forget(source, list(self.of_source(source)))
        with self._changing():
            self._connection.execute("DELETE FROM sources WHERE source = ?", (source,))

    def _source(self, source: str, *, listed_s: float, failed: str) -> None:
        with self._changing():
            self._connection.execute(
                "INSERT OR REPLACE INTO sources VALUES (?, ?, ?)", (source, listed_s, failed)
            )

    # --- what is owed -----------------------------------------------------------------------------

    def owe(self, documents: Sequence[str]) -> None:
        """Listeners have to be told of these, and their old text has to be purged."""
        with self._changing():
            self._connection.executemany(
                "INSERT OR IGNORE INTO notices VALUES (?)", [(one,) for one in documents]
            )

    def owed(self) -> list[str]:
        """Documents whose end nobody was told of yet."""
        return [one for (one,) in self._connection.execute("SELECT document FROM notices")]

    def told(self, documents: Sequence[str]) -> None:
        """Listeners know."""
        with self._changing():
            self._connection.executemany(
                "DELETE FROM notices WHERE document = ?", [(one,) for one in documents]
            )

    def unpurged_since(self) -> float:
        """When the oldest text that was deleted and not purged was deleted; 0 = there is none."""
        return self._meta("unpurged_since")

    def set_unpurged(self, since_s: float) -> None:
        """0 = everything was purged."""
        with self._changing():
            self._connection.execute(
                "INSERT OR REPLACE INTO meta VALUES ('unpurged_since', ?)", (since_s,)
            )

    def unmarked(self) -> bool:
        """Whether documents were signed and marks do not know of it."""
        return bool(self._meta("unmarked"))

    def set_unmarked(self, due: bool) -> None:
        with self._changing():
            self._connection.execute(
                "INSERT OR REPLACE INTO meta VALUES ('unmarked', ?)", (float(due),)
            )

    def purge(self) -> None:
        """Rewrite the file without what was deleted."""
        self._connection.execute("VACUUM")

    def _meta(self, name: str) -> float:
        found = self._connection.execute(
            "SELECT value FROM meta WHERE name = ?", (name,)
        ).fetchone()
        return float(found[0]) if found else 0.0

    # --- pairs ------------------------------------------------------------------------------------

    def pairs(self) -> dict[tuple[str, str], tuple[str, str]]:
        """(document, document) → (their texts' digests, what they are to each other)."""
        found = self._connection.execute("SELECT a, b, texts, verdict FROM pairs")
        return {(a, b): (texts, verdict) for a, b, texts, verdict in found}

    def judge(self, pairs: Mapping[tuple[str, str], tuple[str, str]]) -> None:
        """Keep what pairs are to each other."""
        with self._changing():
            self._connection.executemany(
                "INSERT OR REPLACE INTO pairs VALUES (?, ?, ?, ?)",
                [(*pair, *said) for pair, said in pairs.items()],
            )

    def _rows(self, where: str, values: tuple[str, ...]) -> Iterator[Status]:
        found = self._connection.execute(
            f"SELECT {_COLUMNS} FROM items {where} ORDER BY source, key", values
        )
        for row in found:
            said = dict(zip(_FIELDS, row, strict=True))
            said["outcome"] = Outcome(said["outcome"])
            said["notes"] = tuple(json.loads(said["notes"]))
            yield Status(**said)

    @contextmanager
    def _changing(self) -> Generator[None]:
        try:
            with self._connection:
                yield
        except sqlite3.Error as error:
            raise StoreUnavailable(f"cannot write {self.path}: {error}") from error
