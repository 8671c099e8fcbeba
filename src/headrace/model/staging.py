"""A directory that appears complete or not at all: written beside its place, synced, renamed.

Replacing one that exists takes two renames: a crash between them leaves the old directory under its
temporary name.
"""

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from headrace.errors import CheckpointError


@contextmanager
def staged(target: Path, *, replace_existing: bool = False) -> Generator[Path]:
    """A directory to write into, which becomes `target` where the block ends well.

    Raises:
        CheckpointError: `target` exists and may not be replaced, or the disk refuses.
    """
    if target.exists() and not replace_existing:
        raise CheckpointError(f"{target} exists already; choose another directory or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise CheckpointError(f"cannot write beside {target}: {error.strerror}") from error
    try:
        yield staging
        _publish(staging, target)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {target}: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, target: Path) -> None:
    staging.chmod(0o755)  # mkdtemp's 0700 is not meant to last
    for file in staging.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    if not target.exists():
        staging.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)
