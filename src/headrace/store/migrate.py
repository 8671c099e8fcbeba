"""Alembic without its command line: the scripts in `migrations`, run on a connection we have."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from headrace.errors import ConfigError

_LOCK = 0x68656164  # any number, the same in every replica


def upgrade(connection: Connection) -> None:
    """Bring the schema to this version's; replicas that start at once do it one after another.

    Raises: ConfigError where a newer headrace made the schema.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if current == scripts.get_current_head():
        return
    known: set[Any] = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise ConfigError(
            f"the database's schema {current!r} is of a newer headrace; use that, or another "
            "store.url"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
