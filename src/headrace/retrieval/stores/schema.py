"""An index directory's database: its tables, and connections to it.

Rows are numbered in order of arrival and numbers are never used again: whoever has read up to one
reads on from there, and an old number can never mean something new. What is in a chunk's row is
never changed; a document that changes gets new rows.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from headrace.errors import ConfigError, StoreUnavailable

FILE = "index.db"
VERSION = 1
BUSY_S = 30.0
_MAPPED_BYTES = 1 << 31
SYNCHRONOUS = ("full", "normal")

_TABLES = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    """CREATE TABLE generations (
        number INTEGER PRIMARY KEY AUTOINCREMENT, embedder TEXT NOT NULL, fingerprint TEXT NOT NULL,
        dimensions INTEGER NOT NULL, chunking TEXT NOT NULL, filled INTEGER NOT NULL DEFAULT 0
    )""",
    """CREATE TABLE documents (
        row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL,
        title TEXT NOT NULL, media_type TEXT NOT NULL, modified_s REAL NOT NULL,
        integrity TEXT NOT NULL, sha256 BLOB NOT NULL, readers TEXT, metadata TEXT NOT NULL,
        chunks INTEGER NOT NULL, superseded_by TEXT NOT NULL, conflicts TEXT NOT NULL
    )""",
    "CREATE INDEX documents_source ON documents (source)",
    # Apart: whoever lists documents does not walk over their texts.
    "CREATE TABLE texts (document INTEGER PRIMARY KEY, text BLOB NOT NULL)",
    # What filters and readers ask for. key: m:NAME metadata, b:NAME its truths, r a reader,
    # p everybody. No type, so that numbers stay numbers and texts texts.
    """CREATE TABLE attributes (key TEXT NOT NULL, value NOT NULL, document INTEGER NOT NULL,
        PRIMARY KEY (key, value, document)) WITHOUT ROWID""",
    """CREATE TABLE chunks (
        row INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, ordinal INTEGER NOT NULL,
        start INTEGER NOT NULL, end INTEGER NOT NULL, parent_start INTEGER NOT NULL,
        parent_end INTEGER NOT NULL, tokens INTEGER NOT NULL, headings TEXT NOT NULL,
        sha256 BLOB NOT NULL, length INTEGER NOT NULL, terms BLOB NOT NULL, text BLOB NOT NULL
    )""",
    "CREATE UNIQUE INDEX chunks_document ON chunks (document, ordinal)",
    "CREATE INDEX chunks_sha256 ON chunks (sha256)",
    # Chunks that are gone, for those who had read them.
    "CREATE TABLE removed (chunk INTEGER PRIMARY KEY, seq INTEGER NOT NULL)",
    "CREATE INDEX removed_seq ON removed (seq)",
)


def vectors_table(generation: int) -> str:
    """Of one generation: dropping it drops them all."""
    return f"vectors_{int(generation)}"


def create_vectors(connection: sqlite3.Connection, generation: int) -> None:
    connection.execute(
        f"CREATE TABLE {vectors_table(generation)} (chunk INTEGER PRIMARY KEY, data BLOB NOT NULL)"
    )


def connect(
    directory: Path, *, synchronous: str = "full", readonly: bool = False
) -> sqlite3.Connection:
    """A connection for one thread at a time.

    Raises: StoreUnavailable.
    """
    try:
        connection = sqlite3.connect(
            directory / FILE, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        for pragma in (
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            "secure_delete=FAST",  # overwritten where it costs no page more; `purge` does the rest
            "temp_store=MEMORY",
            # The writer minds its log itself (`writer`); this is for rows as large as books.
            "wal_autocheckpoint=8192",
            f"cache_size=-{8192 if readonly else 65536}",
            # What is read lies where it falls in the file: mapped, a row costs no call.
            *(("query_only=ON", f"mmap_size={_MAPPED_BYTES}") if readonly else ()),
        ):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error as error:
        raise unavailable(directory, error) from error
    return connection


def create(directory: Path) -> bool:
    """Make the directory and its database where there is none; whether there was none.

    Raises:
        ConfigError: A directory that cannot be written, or an index of another version.
        StoreUnavailable: Its database does not answer.
    """
    path = directory / FILE
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
    except OSError as error:
        raise ConfigError(f"cannot keep an index in {directory}: {error.strerror}") from error
    try:
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        try:
            return _create(connection, directory)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise unavailable(directory, error) from error


def _create(connection: sqlite3.Connection, directory: Path) -> bool:
    connection.execute("PRAGMA page_size=8192")  # five vectors of 384 a page instead of two of four
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, VERSION):
        connection.execute("ROLLBACK")
        raise ConfigError(
            f"the index in {directory} has format {version}, this headrace reads {VERSION}; "
            "build it anew from its sources"
        )
    if version == 0:
        for statement in _TABLES:
            connection.execute(statement)
        connection.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            [("seq", 0), ("active", 0), ("forgotten", 0), ("unpurged", 0)],
        )
        connection.execute("INSERT INTO meta VALUES ('name', lower(hex(randomblob(6))))")
        connection.execute(f"PRAGMA user_version={VERSION}")
    connection.execute("COMMIT")
    return version == 0


def meta(connection: sqlite3.Connection, *names: str) -> Sequence[int]:
    """Numbers by name."""
    found = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    return [int(found[name]) for name in names]


def unavailable(directory: Path, error: BaseException) -> StoreUnavailable:
    return StoreUnavailable(f"the index in {directory} does not answer: {str(error)[:200]}")
