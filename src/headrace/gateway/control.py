"""The store behind a running gateway: opened, watched, closed after the last request."""

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from headrace.config import AlertSettings
from headrace.errors import ConfigError, StoreUnavailable
from headrace.gateway.alerts import Alerts
from headrace.gateway.http import stop
from headrace.gateway.keys import Keys, StoreKeys
from headrace.gateway.ledger import SILENT_S, Ledger
from headrace.gateway.prices import PriceBook
from headrace.store.changes import Changes
from headrace.store.database import Database
from headrace.store.identity import first_start
from headrace.store.journal import Journal
from headrace.store.recover import recover

_LOG = logging.getLogger("headrace.gateway")


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """What a gateway has of its store."""

    database: Database
    keys: Keys | None
    """None = no key is asked for."""
    ledger: Ledger
    prices: PriceBook
    changes: Changes
    worker: str
    """What this process is called in the store."""
    new_key: str | None
    """The admin key of a first start, to be shown once."""

    @property
    def away(self) -> str:
        """Why nothing under a limit is answered; empty = the store answers."""
        silent_s = self.changes.silent_s
        if silent_s <= SILENT_S:
            return ""
        return f"the database has not answered for {silent_s:.0f} s"


@contextlib.asynccontextmanager
async def open_control(
    url: str, state_dir: Path, *, auth: bool, alerts: AlertSettings | None = None
) -> AsyncGenerator[Control]:
    """Open the store, make the first admin key where there is none, and follow its changes.

    Args:
        url: As `Database.open`.
        state_dir: Where an earlier headrace kept `keys.json`; its keys stay valid.
        auth: Whether callers need a key.
        alerts: Who is told of limits that are nearly used up; None = nobody.

    Raises:
        ConfigError, StoreUnavailable: As `Database.open`.
    """
    database = await Database.open(url)
    ledger: Ledger | None = None
    tasks: list[asyncio.Task[None]] = []
    try:
        changes = Changes(database)
        journals = state_dir / "journals"
        for remains in await recover(database, journals):
            _LOG.warning(
                "booked what worker %s left when it died: %d ended requests, %d running",
                remains.worker,
                len(remains.ended),
                len(remains.running),
            )
        new_key: str | None = None
        if auth:
            old = _old_digests(state_dir / "keys.json")
            made = await database.write(
                lambda connection: first_start(connection, now_s=int(time.time()), sha256s=old)
            )
            new_key = None if made is None else made.token
        keys = StoreKeys(database, changes) if auth else None
        worker = secrets.token_hex(8)
        ledger = Ledger(database, changes, Journal(journals, worker))
        tasks += [asyncio.create_task(work) for work in (changes.run(), ledger.run())]
        if alerts is not None:
            tasks.append(asyncio.create_task(Alerts(database, alerts).run()))
        yield Control(
            database=database,
            keys=keys,
            ledger=ledger,
            prices=PriceBook(database, changes),
            changes=changes,
            worker=worker,
            new_key=new_key,
        )
    finally:
        await stop(*tasks)
        if ledger is not None:
            try:
                await ledger.close()
            except StoreUnavailable as error:
                _LOG.warning("the next start books what is in the journal: %s", error.message)
        await database.close()


def _old_digests(path: Path) -> list[str]:
    """The hashes in an earlier headrace's file of keys; none where there is no file."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        return [str(item["sha256"]) for item in cast("list[dict[str, Any]]", found["keys"])]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read as a file of API keys ({error!r}); move it away, and the first "
            "start makes a new key"
        ) from error
