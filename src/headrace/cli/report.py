"""What verbs print with: results to stdout, progress to stderr, `--json` for machines.

Invariant: stdout carries results only, so `headrace ... --json | jq` and `> file` always work;
progress is drawn only where stderr is a terminal.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Generator, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from headrace.cli import GlobalOptions
from headrace.config import Settings
from headrace.config import settings_file as of_file

if TYPE_CHECKING:  # `headrace serve` draws nothing, and need not carry what draws
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID


def settings(ctx: typer.Context, changes: Mapping[str, object] | None = None) -> Settings:
    """The settings of this call: file, environment and `--set`, then the verb's own options.

    Args:
        ctx: The verb's context; without the `headrace` root around it (in tests) defaults apply.
        changes: Dotted key -> value from the verb's options; None means the option was not given.

    Raises:
        ConfigError: An unknown key or a value of the wrong type.
    """
    found: object = ctx.obj
    options = found if isinstance(found, GlobalOptions) else GlobalOptions()
    return options.settings(changes)


def settings_file(ctx: typer.Context) -> Path:
    """The TOML file that this call's settings come from, whether or not it exists."""
    found: object = ctx.obj
    return of_file(found.config if isinstance(found, GlobalOptions) else None)


def console() -> "Console":
    """Where results go: stdout, in colour where it is a terminal."""
    from rich.console import Console

    return Console(highlight=False)


def progress_console() -> "Console":
    """Where progress and remarks go: stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def emit_json(data: object) -> None:
    """One JSON document on stdout; dataclasses, enums, paths and sets are spelled out."""
    sys.stdout.write(json.dumps(data, default=_plain, ensure_ascii=False, indent=2) + "\n")
    sys.stdout.flush()


class Step:
    """The handle of a running progress line."""

    def __init__(self, bar: "Progress", task: "TaskID") -> None:
        self._bar = bar
        self._task = task

    def advance(self, amount: float = 1) -> None:
        """Move on by `amount` of the total."""
        self._bar.advance(self._task, amount)

    def update(
        self,
        *,
        completed: float | None = None,
        total: float | None = None,
        description: str | None = None,
    ) -> None:
        """Set what is known now; None leaves a value as it is."""
        self._bar.update(self._task, completed=completed, total=total, description=description)


@contextlib.contextmanager
def progress(description: str, *, total: float | None = None) -> Generator[Step]:
    """A line on stderr while something takes longer than a second; gone when it is over.

    Args:
        description: What is being done, as plain text.
        total: Amount of work; None = unknown, a spinner with the time.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
    ]
    if total is not None:
        columns += [BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    columns.append(TimeElapsedColumn())
    target = progress_console()
    with Progress(*columns, console=target, transient=True, disable=not target.is_terminal) as bar:
        yield Step(bar, bar.add_task(description, total=total))


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
