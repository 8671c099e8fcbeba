"""Alembic without its command line: the scripts in `migrations`, run on a connection we have.

Alembic is imported where there is something to migrate: a gateway whose schema is current has 10 MB
less to carry. So has one whose SQLite database is new: what the scripts make is kept as one script
(`migrations/sqlite.sql`, written by `headrace.store.snapshot`), which makes it in a moment.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from headrace.errors import ConfigError

_SCRIPTS = Path(__file__).parent / "migrations"
SNAPSHOT = _SCRIPTS / "sqlite.sql"
_LOCK = 0x68656164  # any number, the same in every replica


def upgrade(connection: Connection) -> None:
    """Bring the schema to this version's; replicas that start at once do it one after another.

    Raises: ConfigError where a newer headrace made the schema.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    known = sorted(path.name.partition("_")[0] for path in (_SCRIPTS / "versions").glob("*_*.py"))
    current = _current(connection)
    if current == known[-1]:
        return
    if current is not None and current not in known:
        raise ConfigError(
            f"the database's schema {current!r} is of a newer headrace; use that, or another "
            "store.url"
        )
    if current is None and connection.dialect.name == "sqlite" and _made_whole(connection, known):
        return
    climb(connection)


def climb(connection: Connection) -> None:
    """Run the scripts that a database has not seen, one after another."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _current(connection: Connection) -> str | None:
    """The schema's revision: the number that its newest script's name begins with."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(text("SELECT version_num FROM alembic_version"))


def _made_whole(connection: Connection, known: list[str]) -> bool:
    """Whether a new database was made from the snapshot, which may be older than the scripts."""
    revision, _, script = SNAPSHOT.read_text("utf-8").partition("\n")
    if revision != f"-- {known[-1]}":
        return False
    for statement in _statements(script.splitlines(keepends=True)):
        connection.exec_driver_sql(statement)
    return True


def _statements(lines: Iterable[str]) -> Iterable[str]:
    statement = ""
    for line in lines:
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
