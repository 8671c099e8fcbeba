"""Documents that were handed in, not synced: signed as those of sources are, and marked with them.

Invariant: the table has a row, without title or text, for each of them that the index has, and for
no other; so whoever marks next, on whichever machine, compares all.
"""

import asyncio
from collections.abc import Callable, Sequence

from headrace.retrieval.contracts import DocumentRow, IndexStore, Scope
from headrace.retrieval.sync import versions
from headrace.retrieval.sync.state import Outcome, Status, SyncState
from headrace.types import Where

HANDED_IN = ""
"""Their source."""
_ALL = Scope(principals=None)
_OURS = Scope(principals=None, filter=Where(field="source", value=HANDED_IN))


async def mark(store: IndexStore, state: SyncState, sign: Callable[[str], bytes]) -> int:
    """Sign those that are new, forget those that are gone, and mark all anew where there were any.

    Returns: How many marks changed.
    """
    rows = {row.id: row async for row in store.documents(_OURS)}
    known = {row.document: row for row in state.of_source(HANDED_IN).values()}
    gone = [id for id in known if id not in rows]
    new = [row for row in rows.values() if text_of(known.get(row.id)) != row.sha256]
    if not (gone or new or state.unmarked()):
        return 0
    state.set_unmarked(True)
    state.forget(HANDED_IN, gone)
    for row in new:
        document = await store.document(row.id, _ALL)
        if document is not None:
            state.record([_status(row, await asyncio.to_thread(sign, document.text))])
    changed = await versions.mark(store, state)
    state.set_unmarked(False)
    return changed


def copies(state: SyncState, documents: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Of (document, digest of its text): document → another that says the same word for word."""
    found: dict[str, str] = {}
    for id, text in documents:
        others = [other for other in state.saying(text) if other != id]
        if others:
            found[id] = others[0]
    return found


def text_of(status: Status | None) -> str:
    """The digest of the text that a row is of; empty = there is no row."""
    return "" if status is None else status.text


def _status(row: DocumentRow, signature: bytes) -> Status:
    return Status(
        source=HANDED_IN,
        key=row.id,
        document=row.id,
        outcome=Outcome.SEARCHABLE,
        text=row.sha256,
        modified_s=row.modified_s,
        chunks=row.chunks,
        signature=signature,
    )
