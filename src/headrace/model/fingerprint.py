"""Weight files ⇄ `SHA256SUMS`, and the fingerprint that tells two checkpoints apart.

Hashing gigabytes takes seconds; a directory that says its files' hashes (as quantized ones do, in
the format of `sha256sum`) is believed, since a file's size is checked against its header anyway.
`sha256sum -c SHA256SUMS` checks them in full. The fingerprint is the same either way.
"""

import hashlib
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from headrace.errors import CheckpointError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def fingerprint(directory: Path, weights: Iterable[Path]) -> str:
    """SHA-256, hex, over config.json and the weight files by name and content.

    Raises:
        CheckpointError: A `SHA256SUMS` that is malformed or lacks a weight file.
    """
    files = [directory / "config.json", *sorted(weights)]
    sums = read_sums(directory)
    if sums is None:
        digests = _digests(files)
    else:
        lacking = [file.name for file in files[1:] if file.name not in sums]
        if lacking:
            raise CheckpointError(
                f"{directory / SUMS} lacks {lacking[0]}; make the directory again, or remove {SUMS}"
            )
        digests = [_digest(files[0]), *(sums[file.name] for file in files[1:])]
    lines = (f"{file.name}:{digest}\n" for file, digest in zip(files, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_sums(directory: Path) -> dict[str, str] | None:
    """File name -> SHA-256, hex; None where the directory does not say."""
    path = directory / SUMS
    if not path.is_file():
        return None
    sums: dict[str, str] = {}
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise CheckpointError(f"{path}:{number} is not a line of sha256sum; remove the file")
        sums[found[2]] = found[1]
    return sums


def write_sums(directory: Path) -> None:
    """Write the hashes of a directory's weight files."""
    files = sorted(directory.glob("*.safetensors"))
    lines = (f"{d}  {file.name}\n" for file, d in zip(files, _digests(files), strict=True))
    (directory / SUMS).write_text("".join(lines), encoding="utf-8")


def _digests(files: list[Path]) -> list[str]:
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing releases the interpreter lock
        return list(pool.map(_digest, files))


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
