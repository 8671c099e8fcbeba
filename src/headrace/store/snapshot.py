"""What the migrations make of an empty SQLite database, as one script.

    python -m headrace.store.snapshot

writes it anew: to be run after a migration was added. Without that a new database is made by
the migrations themselves, which is the same and takes longer; a test says so.
"""

import sqlite3
import tempfile
from pathlib import Path

from sqlalchemy import create_engine

from headrace.store.migrate import SNAPSHOT, climb


def spelled() -> str:
    """The script; its first line names the newest migration."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "new.db"
        engine = create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            climb(connection)
        engine.dispose()
        driver = sqlite3.connect(path)
        [revision] = driver.execute("SELECT version_num FROM alembic_version").fetchone()
        inner = [
            line for line in driver.iterdump() if line not in ("BEGIN TRANSACTION;", "COMMIT;")
        ]
        driver.close()
    return "\n".join([f"-- {revision}", *inner, ""])


if __name__ == "__main__":
    SNAPSHOT.write_text(spelled(), "utf-8")
