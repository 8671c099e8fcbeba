"""A file is there whole or not at all, also after a crash or on a full disk."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from headrace.errors import DataError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Let `fill` write a temporary file beside `path`, then rename it over.

    Raises:
        DataError: The disk is full or cannot be written; nothing is left of the attempt.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in _FULL:
            raise DataError(
                f"no space left for {path}; free some and run the same command again: what is "
                "finished stays"
            ) from error
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """`write` of what is at hand."""
    write(path, lambda file: file.write(data))
