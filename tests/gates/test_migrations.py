"""Migrations are one line: two of a number would leave a new database half made."""

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

import headrace.store


def test_each_number_is_taken_once_and_follows_the_one_before() -> None:
    directory = Path(headrace.store.__file__).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(directory))
    found = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    files = sorted(path.stem[:4] for path in (directory / "versions").glob("*.py"))
    assert files == [f"{at:04}" for at in range(1, len(files) + 1)]
    assert found[::-1] == files
