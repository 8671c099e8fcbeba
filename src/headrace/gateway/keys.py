"""API keys: an `Authorization` header becomes a `Caller`, or 401; before the body is read.

At rest only SHA-256 hashes are kept, in a JSON file that only its owner may read, replaced
atomically. Keys are 256 random bits, so a plain hash is enough: there is nothing to guess. A
presented key is compared with every hash in constant time. Each key is a tenant of its own in the
prefix cache.
"""

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from headrace.errors import ConfigError, Unauthorized
from headrace.types import Caller

PREFIX = "hr-"
_PRIVATE = 0o600


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyEntry:
    """One key as it is kept."""

    id: str
    sha256: str
    created_s: int


class Opened(NamedTuple):
    ring: "KeyRing"
    new_key: str | None
    """The key made just now, to be shown once; None where the file was there."""


class KeyRing:
    """The keys of a service."""

    def __init__(self, entries: Iterable[KeyEntry]) -> None:
        self._entries = tuple(entries)

    @classmethod
    def load_or_create(cls, path: Path) -> Opened:
        """Read the file, or make it with one new key.

        Raises:
            ConfigError: The file is unreadable, malformed, or others may read it.
        """
        try:
            if not path.exists():
                key = PREFIX + secrets.token_urlsafe(32)
                entry = KeyEntry(id="first", sha256=_hash(key), created_s=int(time.time()))
                if _create(path, [entry]):
                    return Opened(cls([entry]), key)
            return Opened(cls(_read(path)), None)
        except OSError as error:
            raise ConfigError(
                f"cannot keep API keys in {path}: {error.strerror}; set paths.state_dir to a "
                "directory you may write"
            ) from error

    def identify(self, authorization: str | None) -> Caller:
        """Who sends this header.

        Raises:
            Unauthorized: No key, or not one of ours.
        """
        if not authorization:
            raise Unauthorized("no API key; send the header Authorization: Bearer KEY")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized("the Authorization header must be: Bearer KEY")
        presented = _hash(key.strip())
        found: KeyEntry | None = None
        for entry in self._entries:  # all of them, so that time does not tell which matched
            if hmac.compare_digest(entry.sha256, presented):
                found = entry
        if found is None:
            raise Unauthorized("this API key is not valid here")
        return Caller(key_id=found.id, tenant=found.id)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _create(path: Path, entries: Iterable[KeyEntry]) -> bool:
    """Write a new file whole or not at all; False where another process was first."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    keys = [{"id": e.id, "sha256": e.sha256, "created_s": e.created_s} for e in entries]
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump({"keys": keys}, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, path)  # unlike a rename, it fails where the name is taken
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _read(path: Path) -> list[KeyEntry]:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(f"{path} may be read by others (mode {mode:o}); run chmod 600 {path}")
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        entries = [
            KeyEntry(
                id=str(item["id"]), sha256=str(item["sha256"]), created_s=int(item["created_s"])
            )
            for item in cast("list[dict[str, Any]]", found["keys"])
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not a file of API keys ({error!r}); delete it to make a new key"
        ) from error
    for entry in entries:
        if len(entry.sha256) != 64 or not entry.sha256.isascii():
            raise ConfigError(f"{path}: key {entry.id!r} has no SHA-256 hash; delete the entry")
    return entries
