"""The settings file, watched: a change that holds is taken over, a wrong one changes nothing.

Looked at once a `POLL_S` (modification time, inode, size) and at once on `wake` (SIGHUP). A file is
read when two looks in a row find it the same, so that none is read half-written. What cannot change
while the process runs keeps its value and is named. The outcome of the last attempt is `state`, a
metric and a line in the log.
"""

import asyncio
import collections
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from headrace.config import Settings, as_dict, frozen_changes, take_over
from headrace.errors import ConfigError, HeadraceError, StoreUnavailable
from headrace.observe.metrics import Metrics

POLL_S = 0.5
_MOST_UNTOLD = 100
_LOG = logging.getLogger("headrace.config")
_Mark: TypeAlias = tuple[int, int, int] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigState:
    """How the last reading of the settings went."""

    file: str
    accepted: bool = True
    error: str = ""
    """Why it was not accepted; what was in force before still is."""
    at_s: int = 0
    """Unix time of the last attempt."""
    since_s: int = 0
    """Unix time since which the settings in force are."""
    restart: tuple[str, ...] = ()
    """Settings that the file changes and only a restart will."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One attempt, as the audit log has it: names of settings and never their values."""

    by: str
    """`file watcher` or `SIGHUP`."""
    file: str
    accepted: bool
    error: str
    changed: tuple[str, ...]
    """Dotted keys whose values are others now; those of a file that was not accepted, unknown."""
    restart: tuple[str, ...]
    """Dotted keys that the file changes and only a restart will."""
    at_s: int


class Reloader:
    """`run` it as a task."""

    def __init__(
        self,
        file: Path,
        settings: Settings,
        *,
        load: Callable[[], Settings],
        apply: Callable[[Settings], Awaitable[None]],
        metrics: Metrics,
        note: Callable[[Reading], Awaitable[None]] | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        """Watch.

        Args:
            file: Watched; it need not exist.
            settings: In force now.
            load: Reads all settings again, as they were read at the start.
            apply: Puts settings in force, all or nothing; raises a `HeadraceError` where it cannot.
            metrics: Counts the attempts.
            note: Keeps each attempt; told again later where it raises `StoreUnavailable`.
            poll_s: Between two looks.
        """
        self._file = file
        self._settings = settings
        self._load = load
        self._apply = apply
        self._metrics = metrics
        self._note = note
        self._untold: collections.deque[Reading] = collections.deque(maxlen=_MOST_UNTOLD)
        self._poll_s = poll_s
        self._woken = asyncio.Event()
        self._seen = self._mark()
        now_s = int(time.time())
        self.state = ConfigState(file=str(file), at_s=now_s, since_s=now_s)

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self._settings

    def wake(self) -> None:
        """Read the file now, changed or not."""
        self._woken.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        before = self._seen
        while True:
            by = "SIGHUP"
            try:
                await asyncio.wait_for(self._woken.wait(), self._poll_s)
            except TimeoutError:
                by = "file watcher"
                await self._tell()
                mark = self._mark()
                settled, before = mark == before, mark
                if mark == self._seen or not settled:
                    continue
            self._woken.clear()
            await self.reload(by=by)

    async def reload(self, *, by: str) -> ConfigState:
        """Read and apply the file now; `by` whom is for the audit log."""
        before = self._settings
        self._seen = mark = self._mark()
        try:
            if mark is None:
                raise ConfigError(f"{self._file} is not there any more")
            wanted = await asyncio.to_thread(self._load)
            restart = frozen_changes(self._settings, wanted)
            settings = take_over(self._settings, wanted)
            await self._apply(settings)
        except HeadraceError as error:
            self._end(accepted=False, error=error.message, restart=self.state.restart)
            _LOG.error("the settings are kept as they were: %s", error.message)
        except Exception:  # noqa: BLE001 - a bug here must not end what runs on the old settings
            self._end(accepted=False, error="internal error; the log has it", restart=())
            _LOG.exception("the settings are kept as they were: a bug while reading them")
        else:
            self._settings = settings
            self._end(accepted=True, error="", restart=restart)
            _LOG.info("new settings from %s", self._file)
            if restart:
                _LOG.warning("these change at the next start only: %s", ", ".join(restart))
        self._untold.append(self._reading(by, before))
        await self._tell()
        return self.state

    def _reading(self, by: str, before: Settings) -> Reading:
        was, now = as_dict(before), as_dict(self._settings)
        return Reading(
            by=by,
            file=str(self._file),
            accepted=self.state.accepted,
            error=self.state.error,
            changed=tuple(
                sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
            ),
            restart=tuple(each.partition(" = ")[0] for each in self.state.restart),
            at_s=self.state.at_s,
        )

    async def _tell(self) -> None:
        """Note what is not noted yet; settings never wait for the store."""
        while self._untold and self._note is not None:
            try:
                await self._note(self._untold[0])
            except StoreUnavailable as error:
                _LOG.warning("the audit log waits for %d readings: %s", len(self._untold), error)
                return
            self._untold.popleft()

    def _end(self, *, accepted: bool, error: str, restart: tuple[str, ...]) -> None:
        now_s = int(time.time())
        self._metrics.reloaded(accepted=accepted)
        self.state = ConfigState(
            file=str(self._file),
            accepted=accepted,
            error=error,
            at_s=now_s,
            since_s=now_s if accepted else self.state.since_s,
            restart=restart,
        )

    def _mark(self) -> _Mark:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size
