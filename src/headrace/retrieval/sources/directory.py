"""A directory and all below it.

A file is unchanged where size, times, inode and link are: its change time cannot be set by hand.
Changed within the last moments it is read again, for a clock's tick has room for two writes.
Symbolic links are followed inside the directory only.
"""

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from headrace.errors import DataError
from headrace.retrieval.parsing import Raw, Refusal, Unreadable
from headrace.retrieval.sources.access import SUFFIX, Access
from headrace.retrieval.sources.source import Fetched, Gone, Item, Outcome

_SETTLED_S = 2.0
_PAGE = 256


class Directory:
    """The files of a directory that its patterns choose. Hidden files and folders are passed over.

    Args:
        name: Of the source.
        root: The directory.
        include: Patterns of relative paths; one has to match.
        exclude: Patterns of which none may match.
        access: Who may read what.
        clock: Unix time.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        *,
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        access: Access | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._root = root
        self._include, self._exclude = include, exclude
        self._access = access or Access()
        self._clock = clock

    async def items(self) -> AsyncIterator[Item]:
        """By path. Raises: DataError: A directory that cannot be listed."""
        if not self._root.is_dir():
            raise DataError(f"source {self.name}: {self._root} is no directory that can be read")
        paths = await asyncio.to_thread(self._paths)
        for at in range(0, len(paths), _PAGE):
            found = await asyncio.to_thread(
                lambda page: [self._item(path) for path in page], paths[at : at + _PAGE]
            )
            for item in found:
                if item is not None:
                    yield item

    async def fetch(self, item: Item, *, known: str, limit_bytes: int) -> Outcome:
        """The file's bytes, as they are now."""
        return await asyncio.to_thread(self._read, item, limit_bytes)

    def _paths(self) -> list[str]:
        found: list[str] = []

        def refuse(error: OSError) -> None:
            raise DataError(
                f"source {self.name}: cannot list {error.filename}: {error.strerror}; nothing was "
                "deleted"
            ) from error

        for folder, folders, files in os.walk(self._root, onerror=refuse, followlinks=True):
            folders[:] = [each for each in folders if self._entered(Path(folder), each)]
            for each in files:
                key = (Path(folder) / each).relative_to(self._root).as_posix()
                if not each.startswith(".") and not each.endswith(SUFFIX) and self._chosen(key):
                    found.append(key)
        return sorted(found)

    def _chosen(self, key: str) -> bool:
        if not any(fnmatchcase(key, pattern) for pattern in self._include):
            return False
        return not any(fnmatchcase(key, pattern) for pattern in self._exclude)

    def _entered(self, folder: Path, name: str) -> bool:
        path = folder / name
        if name.startswith(".") or not self._inside(path):
            return False
        # A link to a folder that it lies in has no end.
        return not (path.is_symlink() and folder.resolve().is_relative_to(path.resolve()))

    def _inside(self, path: Path) -> bool:
        return not path.is_symlink() or path.resolve().is_relative_to(self._root.resolve())

    def _item(self, key: str) -> Item | None:
        path = self._root / key
        try:
            if not self._inside(path):
                return None
            found = path.stat()
        except OSError:
            return None  # gone since, or a link to nowhere
        if not stat.S_ISREG(found.st_mode):
            return None
        settled = self._clock() - max(found.st_ctime, found.st_mtime) > _SETTLED_S
        who = f"{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
        readers = self._access.readers(key, self._beside(path))
        refused = isinstance(readers, Refusal)
        return Item(
            key=key,
            revision=who if settled else "",
            size_bytes=found.st_size,
            modified_s=found.st_mtime,
            readers=frozenset() if refused else readers,
            refusal=readers if refused else None,
        )

    def _beside(self, path: Path) -> bytes | None:
        try:
            return path.with_name(path.name + SUFFIX).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"cannot be read: {error.strerror}".encode()  # no JSON: it lets nobody in

    def _read(self, item: Item, limit_bytes: int) -> Outcome:
        path = self._root / item.key
        try:
            if not self._inside(path):
                return Gone()
            with path.open("rb") as file:
                data = file.read(limit_bytes + 1)
        except FileNotFoundError:
            return Gone()
        except PermissionError as error:
            return Refusal(reason=Unreadable.ACCESS, detail=f"it may not be read: {error.strerror}")
        except OSError as error:
            detail = f"it cannot be read: {error.strerror or error}"
            return Refusal(reason=Unreadable.UNAVAILABLE, detail=detail)
        if len(data) > limit_bytes:
            detail = f"it grew to more than {limit_bytes} bytes while it was read"
            return Refusal(reason=Unreadable.TOO_LARGE, detail=detail)
        return Fetched(raw=Raw(data=data, name=path.name), revision=item.revision)
