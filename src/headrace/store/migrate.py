"""Alembic without its command line: the scripts in `migrations`, run on a connection we have.

Alembic is imported where there is something to migrate: a gateway whose schema is current, which is
every start but the first, has 8 MB less to carry.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from headrace.errors import ConfigError

_SCRIPTS = Path(__file__).parent / "migrations"
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
