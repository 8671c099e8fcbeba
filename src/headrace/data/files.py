"""Files and directories -> records, in one fixed order, each a text or a counted reason why not.

`*.txt`, `*.md`, `*.rst` (cut at empty lines into pieces of about 40 kB), `*.jsonl` and `*.ndjson`
with a text field, each also as `.gz`, and `*.parquet` (with the extra `data`). One bad record costs
that record; a file that cannot be read to its end stops the run, because what is missing from it is
unknown.

A large file is read in stripes, blocks of records dealt out in turn, so that many workers can share
it; how many there are follows from its size alone, so the result does not depend on the workers.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from headrace.errors import DataError, MissingExtra

CHUNK_BYTES = 40_000
"""A text file without records is cut into documents of about this size at empty lines."""
STRIPE_RECORDS = 256
_TEXT = (".txt", ".md", ".rst")
_LINES = (".jsonl", ".ndjson")
_PARQUET = (".parquet",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One text of a file."""

    number: int
    """From 1 within the file: a line, a row, or for plain text a piece."""
    key: str
    """How it is named within its file: its `path` field, its line, or for text its offset."""
    text: str
    licence: str | None = None
    """From its `licence` or `license` field."""
    origin: str | None = None
    """From its `url` or `origin` field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A record that is not a text."""

    number: int
    reason: str
    """A short name to count by: undecodable | not_json | no_text."""
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Stripe:
    """Which records of a file: blocks of `STRIPE_RECORDS`, each `count`-th from `index` on."""

    index: int = 0
    count: int = 1

    def has(self, number: int) -> bool:
        """Whether the record of this number, from 1, belongs to the stripe."""
        return (number - 1) // STRIPE_RECORDS % self.count == self.index


ALL = Stripe()


def files_in(path: Path, *, also: tuple[str, ...] = ()) -> list[Path]:
    """The file itself, or the readable files of a directory and those below, by relative path.

    Args:
        path: The file or directory.
        also: Further suffixes to take.

    Raises:
        DataError: Nothing there that can be read.
    """
    kinds = ", ".join((*_TEXT, *_LINES, *also, *_PARQUET))
    if path.is_file():
        if not _suffix(path, also):
            raise DataError(f"{path} is none of {kinds} (texts and lines also as .gz)")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} is not there; give a file or a directory of {kinds}")
    found = [
        file
        for file in path.rglob("*")
        if file.is_file()
        and _suffix(file, also)
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not found:
        raise DataError(f"{path} has no file of {kinds} (texts and lines also as .gz)")
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def read(
    path: Path, *, text_field: str = "text", stripe: Stripe = ALL
) -> Iterator[Record | Skipped]:
    """The records of one file, in order.

    Raises:
        DataError: The file cannot be read to its end.
        MissingExtra: Parquet without pyarrow.
    """
    kind = _suffix(path)
    if kind in _PARQUET:
        return _rows(path, text_field, stripe)
    return _lines(path, text_field, stripe) if kind in _LINES else _pieces(path, stripe)


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Whole rows.

    Raises:
        DataError: As `read`.
        MissingExtra: pyarrow is not installed.
    """
    return (fields for _, fields in _parquet(path, None, ALL))


def _suffix(path: Path, also: tuple[str, ...] = ()) -> str:
    name = path.name.removesuffix(".gz")
    known = (*_TEXT, *_LINES, *also, *(() if path.suffix == ".gz" else _PARQUET))
    return next((suffix for suffix in known if name.endswith(suffix)), "")


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _lines(path: Path, text_field: str, stripe: Stripe) -> Iterator[Record | Skipped]:
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if stripe.has(number) and line.strip():
                    yield _line(line, number, text_field)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path} after line {number}: {error}") from error


def _line(line: bytes, number: int, text_field: str) -> Record | Skipped:
    try:
        value: object = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        detail = f"{error.reason} at byte {error.start}"
        return Skipped(number=number, reason="undecodable", detail=detail)
    except (ValueError, RecursionError) as error:
        return Skipped(number=number, reason="not_json", detail=str(error))
    if not isinstance(value, dict):
        return Skipped(number=number, reason="not_json", detail="not an object")
    return _record(cast("dict[str, Any]", value), number, text_field)


def _record(fields: dict[str, Any], number: int, text_field: str) -> Record | Skipped:
    text = fields.get(text_field)
    if not isinstance(text, str):
        names = ", ".join(list(fields)[:8]) or "none"
        detail = (
            f"`{text_field}` is a {type(text).__name__}, not a string"
            if text_field in fields
            else f"`{text_field}` is not there; the fields are {names}"
        )
        return Skipped(number=number, reason="no_text", detail=detail)
    if not _encodable(text):
        detail = f"`{text_field}` has half a surrogate pair"
        return Skipped(number=number, reason="undecodable", detail=detail)
    licence = fields.get("licence", fields.get("license"))
    origin = fields.get("url", fields.get("origin"))
    return Record(
        number=number,
        key=str(fields.get("path", number)),
        text=text,
        licence=licence if isinstance(licence, str) and licence.strip() else None,
        origin=origin if isinstance(origin, str) else None,
    )


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pieces(path: Path, stripe: Stripe) -> Iterator[Record | Skipped]:
    try:
        with _open(path) as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    try:
        content = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if stripe.index == 0:  # the whole file is one bad record, counted once
            detail = f"{error.reason} at byte {error.start}"
            yield Skipped(number=1, reason="undecodable", detail=detail)
        return
    for number, (start, text) in enumerate(_cut(content), start=1):
        if stripe.has(number):
            yield Record(number=number, key=str(start), text=text)


def _cut(content: str) -> Iterator[tuple[int, str]]:
    start = 0
    while start < len(content):
        end = content.find("\n\n", start + CHUNK_BYTES)
        end = len(content) if end < 0 else end + 2
        yield start, content[start:end]
        start = end


def _rows(path: Path, text_field: str, stripe: Stripe) -> Iterator[Record | Skipped]:
    for number, fields in _parquet(path, text_field, stripe):
        yield _record(fields, number, text_field)


def _parquet(
    path: Path, text_field: str | None, stripe: Stripe
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered rows; with a text field only that and what a record may say besides."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtra(
            f"reading {path.name} needs pyarrow: pip install 'headrace[data]'"
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            if text_field is not None and text_field not in names:
                raise DataError(f"{path} has no column `{text_field}`; it has {', '.join(names)}")
            wanted = (text_field, "path", "licence", "license", "url", "origin")
            columns = [name for name in names if text_field is None or name in wanted]
            for batch in file.iter_batches(batch_size=STRIPE_RECORDS, columns=columns):
                for fields in batch.to_pylist():
                    number += 1
                    if stripe.has(number):
                        yield number, fields
    except (OSError, arrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} after row {number}: {error}") from error
