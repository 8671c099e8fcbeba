"""Rows of cells → a Markdown table, as every parser writes one and the chunker knows them."""

import csv
import io
from collections.abc import Iterable, Sequence

from headrace.retrieval.parsing.decode import decode
from headrace.retrieval.parsing.reading import CannotRead, Raw, Reading, Unreadable
from headrace.retrieval.parsing.sniff import TSV

_MOST_FIELD = 1 << 20


def cell(value: object) -> str:
    """One cell: a line, its bars escaped."""
    text = "" if value is None else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def table(rows: Iterable[Sequence[object]]) -> str:
    """The first row is the header. Empty rows are left out, columns empty in all rows too."""
    cells = [[cell(value) for value in row] for row in rows]
    cells = [row for row in cells if any(row)]
    if not cells:
        return ""
    width = max(len(row) for row in cells)
    used = [at for at in range(width) if any(at < len(row) and row[at] for row in cells)]
    lines = [
        "| " + " | ".join(row[at] if at < len(row) else "" for at in used) + " |" for row in cells
    ]
    lines.insert(1, "|" + " --- |" * len(used))
    return "\n".join(lines)


def read_csv(raw: Raw, media_type: str) -> Reading:
    """Its delimiter is found; a single column is a text like any other."""
    found = decode(raw.data, declared=raw.encoding)
    csv.field_size_limit(_MOST_FIELD)
    delimiter = "\t" if media_type == TSV else _delimiter(found.text)
    try:
        rows = list(
            csv.reader(io.StringIO(found.text, newline=""), delimiter=delimiter, strict=True)
        )
    except csv.Error as error:
        raise CannotRead(Unreadable.CORRUPT, f"it is no CSV: {error}") from None
    notes = list(found.notes)
    widths = {len(row) for row in rows if row}
    if len(widths) > 1:
        odd = sum(len(row) != len(rows[0]) for row in rows if row)
        notes.append(f"{odd} rows have more or fewer cells than the {len(rows[0])} of the first")
    return Reading(
        text=table(rows),
        media_type=media_type,
        metadata={"rows": max(len(rows) - 1, 0)},
        notes=tuple(notes),
    )


def _delimiter(text: str) -> str:
    head = text[:20_000]
    lines = [line for line in head.splitlines()[:50] if line.strip()]
    if not lines:
        return ","

    # The one that splits most lines alike; a comma where none does.
    def agreement(mark: str) -> tuple[int, int]:
        counts = [line.count(mark) for line in lines]
        return (sum(count == counts[0] for count in counts) if counts[0] else 0, counts[0])

    best = max(",;\t|", key=agreement)
    return best if agreement(best)[0] else ","
