"""Where the indexes of an installation lie: a directory each, with a file that says how it is made.

    DIRECTORY/ORG+TEAM/NAME/index.json      the spec, and which making of the name this is
                           /migration.json  while the embedding model is exchanged, and after it
                           /refused.db      documents that could not be read, and why
                           /store/          documents, chunks, vectors

An index appears and disappears whole: it is made beside its place and renamed there, and renamed
away before it is deleted.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec

from headrace.errors import Conflict, InvalidParameter, NotFound, StoreUnavailable
from headrace.types import IndexOwner, IndexSpec

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SPEC = "index.json"
VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One index."""

    path: Path
    """Where its files are; of one in PostgreSQL what this machine keeps of its sources."""
    spec: IndexSpec
    uid: str
    """Of this making: an index that was deleted and made again has another."""
    created_s: int

    @property
    def store(self) -> Path:
        return self.path / "store"


class Shelf:
    """The directory of all."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, name: str, owner: IndexOwner) -> Place | None:
        """Of this owner; None where there is none, whatever the name."""
        if not _NAME.fullmatch(name):
            return None
        return _read(self._path(name, owner))

    def create(self, spec: IndexSpec) -> Place:
        """Raises: InvalidParameter, Conflict, StoreUnavailable."""
        check_name(spec.name)
        path = self._path(spec.name, spec.owner)
        if path.exists():
            raise taken(spec.name)
        making = path.with_name(f".making-{secrets.token_hex(6)}")
        uid, now_s = secrets.token_hex(8), int(time.time())
        try:
            making.mkdir(parents=True)
            write_json(
                making / _SPEC,
                {
                    "version": VERSION,
                    "uid": uid,
                    "created_s": now_s,
                    "spec": msgspec.to_builtins(spec),
                },
            )
            (making / "store").mkdir()
            making.rename(path)
        except OSError as error:
            shutil.rmtree(making, ignore_errors=True)
            if path.exists():
                raise taken(spec.name) from None
            raise StoreUnavailable(f"cannot make {path}: {error.strerror or error}") from error
        return Place(path=path, spec=spec, uid=uid, created_s=now_s)

    def delete(self, place: Place) -> None:
        """Raises: NotFound: Somebody else was faster."""
        gone = place.path.with_name(f".gone-{secrets.token_hex(6)}")
        try:
            place.path.rename(gone)
        except FileNotFoundError:
            raise missing(place.spec.name) from None
        shutil.rmtree(gone, ignore_errors=True)

    def of(self, owner: IndexOwner) -> list[Place]:
        """All of one owner, by name."""
        return list(_places(self.root / _folder(owner)))

    def all(self) -> list[Place]:
        """Of everybody."""
        if not self.root.is_dir():
            return []
        return [place for folder in sorted(self.root.iterdir()) for place in _places(folder)]

    def _path(self, name: str, owner: IndexOwner) -> Path:
        return self.root / _folder(owner) / name


def is_name(name: str) -> bool:
    """Whether an index can be called so."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Raises: InvalidParameter."""
    if not is_name(name):
        raise InvalidParameter(
            f"an index cannot be called {name[:80]!r}; take lower-case letters, digits, _ and -, "
            "at most 64, beginning with a letter or digit",
            param="name",
        )


def missing(name: str) -> NotFound:
    """The same words, whether it is another team's or nobody's."""
    return NotFound(f"there is no index {name[:80]!r} here", param="index")


def write_json(path: Path, value: object) -> None:
    """As `write_bytes`."""
    write_bytes(path, json.dumps(value, indent=1).encode())


def write_bytes(path: Path, value: bytes) -> None:
    """Whole or not at all, whenever the process ends."""
    beside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with beside.open("wb") as stream:
        stream.write(value)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)
    with contextlib.suppress(OSError):
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _places(folder: Path) -> Iterator[Place]:
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            found = _read(path) if _NAME.fullmatch(path.name) else None
            if found is not None:
                yield found


def _read(path: Path) -> Place | None:
    try:
        value = msgspec.json.decode((path / _SPEC).read_bytes(), type=dict[str, msgspec.Raw])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StoreUnavailable(f"cannot read {path / _SPEC}: {error}") from error
    try:
        version = msgspec.json.decode(value["version"], type=int)
        if version != VERSION:
            raise StoreUnavailable(
                f"{path} is an index of version {version}, and this headrace reads {VERSION}"
            )
        return Place(
            path=path,
            spec=msgspec.json.decode(value["spec"], type=IndexSpec),
            uid=msgspec.json.decode(value["uid"], type=str),
            created_s=msgspec.json.decode(value["created_s"], type=int),
        )
    except (KeyError, msgspec.ValidationError) as error:
        raise StoreUnavailable(f"{path / _SPEC} is not an index' record: {error}") from error


def _folder(owner: IndexOwner) -> str:
    # The plus keeps it from being empty or "..", and no quoted name has one.
    return f"{quote(owner.org, safe='')}+{quote(owner.team, safe='')}"


def taken(name: str) -> Conflict:
    """Of an index that is there already."""
    return Conflict(f"there is an index {name!r} already; delete it, or take another name")
