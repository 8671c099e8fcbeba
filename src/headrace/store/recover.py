"""Dead workers' journals → the ledger: ended requests as they ended, running ones as held."""

from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store.batches import release
from headrace.store.database import Database
from headrace.store.entries import Entry, reruns, unresolved
from headrace.store.journal import Remains, orphans
from headrace.store.leases import BURIED, set_state, touch
from headrace.store.ledger import book


async def recover(database: Database, directory: Path) -> list[Remains]:
    """Book what every dead worker's journal in a directory says, and free its slices.

    Returns: What was found. Raises: StoreUnavailable; the journals then stay.
    """
    found: list[Remains] = []
    for orphan in orphans(directory):
        remains = orphan.read()
        lost = [unresolved(entry) for entry in remains.running if not reruns(entry)]
        entries = [*remains.ended, *lost]
        ids = [entry.id for entry in (*remains.ended, *remains.running)]

        async def work(
            connection: AsyncConnection,
            worker: str = remains.worker,
            ended: list[Entry] = entries,
            noted: list[str] = ids,
        ) -> None:
            # Waits for whatever the dead worker's last transaction still does in the database.
            await touch(connection, database, worker, lease_s=0)
            await book(
                connection,
                database,
                worker,
                entries=ended,
                noted=noted,
                running=(),
                targets={},
            )
            await release(connection, worker)
            await set_state(connection, worker, BURIED)

        await database.write(work)
        orphan.remove()
        found.append(remains)
    return found
