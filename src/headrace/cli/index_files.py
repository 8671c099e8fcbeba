"""Paths of the command line → documents to hand in, a few megabytes at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from headrace.errors import UserError
from headrace.types import NewDocument

_FILES = 32
_BYTES = 16 << 20


def found_files(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Files with their ids: a directory's by their paths below it, one's own by its name.

    Hidden ones are passed over. Raises: UserError: No such path, or two files of one id.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no {path}")
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            id = file.relative_to(path).as_posix() if path.is_dir() else path.name
            if not file.is_file() or any(part.startswith(".") for part in Path(id).parts):
                continue
            if found.setdefault(id, file) != file:
                raise UserError(f"{found[id]} and {file} would both be document {id!r}")
    if not found:
        raise UserError(f"there is no file in {', '.join(map(str, paths))}")
    return list(found.items())


def batches(
    files: Sequence[tuple[str, Path]], readers: Sequence[str] | None
) -> Iterator[list[NewDocument]]:
    """The documents, so many at once. Raises: UserError: A file that cannot be read."""
    batch: list[NewDocument] = []
    size = 0
    for id, path in files:
        try:
            data, modified_s = path.read_bytes(), path.stat().st_mtime
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        batch.append(
            NewDocument(
                id=id,
                data=data,
                filename=path.name,
                modified_s=modified_s,
                readers=frozenset(readers) if readers else None,
            )
        )
        size += len(data)
        if len(batch) >= _FILES or size >= _BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
