"""Documents that could not be read, with the reason of each: an SQLite file beside the store."""

import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from headrace.types import DocumentState, DocumentStatus

_TABLE = (
    "create table if not exists refused (id text primary key, source text not null, "
    "reason text not null, detail text not null, at_s integer not null) without rowid"
)


class Refused:
    """Blocking; several processes may use one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, refused: Iterable[DocumentStatus], read: Iterable[str]) -> None:
        """Remember some, and forget those that were read or removed after all."""
        rows = [
            (item.id, item.source, item.reason, item.detail, int(time.time())) for item in refused
        ]
        with closing(self._open()) as connection, connection:
            connection.executemany("insert or replace into refused values (?, ?, ?, ?, ?)", rows)
            connection.executemany("delete from refused where id = ?", [(id,) for id in read])

    def get(self, id: str) -> DocumentStatus | None:
        """One of them."""
        with closing(self._open()) as connection:
            row = connection.execute(
                "select id, source, reason, detail from refused where id = ?", (id,)
            ).fetchone()
        return None if row is None else _status(row)

    def all(self, *, after: str = "", limit: int = -1) -> Sequence[DocumentStatus]:
        """By id."""
        with closing(self._open()) as connection:
            rows = connection.execute(
                "select id, source, reason, detail from refused where id > ? order by id limit ?",
                (after, limit),
            ).fetchall()
        return [_status(row) for row in rows]

    def count(self) -> int:
        with closing(self._open()) as connection:
            return int(connection.execute("select count(*) from refused").fetchone()[0])

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=10.0)
        try:
            connection.execute(_TABLE)
        except BaseException:
            connection.close()
            raise
        return connection


def _status(row: tuple[str, str, str, str]) -> DocumentStatus:
    id, source, reason, detail = row
    return DocumentStatus(
        id=id, source=source, reason=reason, detail=detail, state=DocumentState.FAILED
    )
