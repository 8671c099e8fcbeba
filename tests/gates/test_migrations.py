"""Migrations are one line: each number once, each after the one before."""

import re
from pathlib import Path

VERSIONS = Path(__file__).parents[2] / "src" / "headrace" / "store" / "migrations" / "versions"


def test_migrations_are_one_line() -> None:
    files = sorted(VERSIONS.glob("[0-9]*.py"))
    for number, file in enumerate(files, 1):
        text = file.read_text()
        assert file.name.startswith(f"{number:04d}_"), f"{file.name} is number {number}"
        assert re.search(rf'^revision = "{number:04d}"$', text, re.MULTILINE), file.name
        before = f'"{number - 1:04d}"' if number > 1 else "None"
        assert re.search(rf"^down_revision = {before}$", text, re.MULTILINE), file.name
