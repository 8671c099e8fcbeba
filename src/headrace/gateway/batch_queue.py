"""The batches of all teams, as the routes see them; `batch_runner` does the work."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Row

from headrace.gateway.file_store import FileStore, owner_of
from headrace.store import batches
from headrace.store.batches import NewBatch
from headrace.store.files import Owner, Page
from headrace.types import Caller
from headrace.wire.batch_calls import WINDOW_S, BatchCall


class BatchQueue:
    """One for all services of a process."""

    def __init__(
        self, files: FileStore, *, max_lines: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.files = files
        self.database = files.database
        self.max_lines = max_lines
        self.clock = clock
        self.woken = asyncio.Event()
        """Set where there may be something to do at once."""

    @property
    def now_s(self) -> int:
        return int(self.clock())

    async def create(self, caller: Caller, call: BatchCall) -> Row[Any]:
        """Raises: NotFound, InvalidParameter, StoreUnavailable."""
        now_s = self.now_s
        new = NewBatch(
            id=f"batch_{secrets.token_hex(12)}",
            owner=owner_of(caller),
            key=caller.key_id,
            feature=caller.feature,
            created_s=now_s,
            expires_s=now_s + WINDOW_S,
            endpoint=call.endpoint,
            input_file=call.input_file,
            metadata="" if call.metadata is None else json.dumps(call.metadata),
            output_ttl_s=call.output_ttl_s,
        )
        row = await self.database.write(lambda c: batches.add_batch(c, new))
        self.woken.set()
        return row

    async def get(self, id: str, owner: Owner) -> Row[Any]:
        """Raises: NotFound, StoreUnavailable."""
        return await self.database.read(lambda c: batches.get_batch(c, id, owner))

    async def page(self, owner: Owner, page: Page) -> tuple[list[Row[Any]], bool]:
        """As `headrace.store.batches.list_batches`."""
        return await self.database.read(lambda c: batches.list_batches(c, owner, page))

    async def cancel(self, id: str, owner: Owner) -> Row[Any]:
        """Raises: NotFound, Conflict, StoreUnavailable."""
        now_s = self.now_s
        row = await self.database.write(lambda c: batches.cancel(c, id, owner, now_s=now_s))
        self.woken.set()
        return row
