"""Rows become a table that loses nothing, on a terminal of any width, in a pipe and in a file.

Invariant: no value is ever shortened. A column that is empty in every row is left out; what has to
be copied whole (ids) stays on one line while the terminal is wide enough for it; the rest folds.
Outside a terminal a row is one line, as grep wants it.
"""

from collections.abc import Collection, Iterable, Sequence

from rich.table import Table
from rich.text import Text

from headrace.cli.report import console
from headrace.cli.terminal import visible

_ANY_WIDTH = 100_000
_WORD = 10
"""Words up to the length of a date stay whole."""


def show_rows(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    whole: Collection[str] = (),
    title: str | None = None,
) -> None:
    """Print a table to stdout.

    Args:
        columns: Headings.
        rows: One text a column; control characters are made visible.
        whole: The columns of ids.
        title: Above it.
    """
    cells = [[visible(text).replace("\n", " ") for text in row] for row in rows]
    kept = [at for at in range(len(columns)) if not cells or any(row[at] for row in cells)]
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for at in kept:
        name = columns[at]
        texts = [name, *(row[at] for row in cells)]
        words = (word for text in texts for word in text.split())
        pieces = texts if name in whole else (word for word in words if len(word) <= _WORD)
        table.add_column(
            name,
            overflow="fold",
            no_wrap=name in whole,
            min_width=max(map(len, pieces), default=1),
        )
    for row in cells:
        table.add_row(*(Text(row[at]) for at in kept))
    out = console()
    if not out.is_terminal:
        out.width = _ANY_WIDTH
    out.print(table, crop=False)
