"""Listed items, in the order of their keys → what has to be done about each.

Of items that say the same to the same readers the first by key is searchable, the others are
skipped; so the outcome depends on what a source has, not on what it had before.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from headrace.retrieval.parsing import Refusal, Unreadable
from headrace.retrieval.sources import Fetched, Gone, Item, Source, Unchanged
from headrace.retrieval.sync.reading import DocumentReader, Facts, Prepared
from headrace.retrieval.sync.state import Outcome, Status

_TRY_AGAIN = frozenset(
    {
        Unreadable.UNAVAILABLE,
        Unreadable.TIMEOUT,
        Unreadable.CRASHED,
        Unreadable.MISSING_EXTRA,
    }
)


@dataclass(frozen=True, slots=True)
class Same:
    """Nothing has changed but when that was last seen."""

    status: Status
    readers: frozenset[str] | None


Judged = Prepared | Same | Gone


class Judge:
    """Looks at the items of one source in one run. Many at a time: it keeps nothing."""

    def __init__(
        self,
        source: Source,
        reader: DocumentReader,
        known: dict[str, Status],
        present: dict[str, str],
        clock: Callable[[], float],
    ) -> None:
        self._source, self._reader = source, reader
        self.known, self._present = known, present
        self._clock = clock

    async def judge(self, item: Item, *, again: bool = False) -> Judged:
        """What is to be done about an item.

        Args:
            item: As it was listed.
            again: Whatever is known of it, read it.
        """
        facts = self.facts(item)
        row = None if again else self._usable(item.key, facts)
        if item.refusal is not None:
            return self._refused(facts, item, item.refusal)
        if row is not None and item.revision and item.revision == row.revision:
            return Same(row, item.readers)
        limits = self._reader.parser.limits
        refused = None if item.size_bytes is None else limits.refuse(item.size_bytes)
        if refused is not None:
            return self._refused(facts, item, refused)
        known = row.revision if row is not None else ""
        found = await self._source.fetch(item, known=known, limit_bytes=limits.file_bytes)
        match found:
            case Gone():
                return found
            case Unchanged():
                assert row is not None, "a source said unchanged of what it was not asked"
                return Same(row, item.readers)
            case Refusal():
                return self._unread(facts, item, found)
            case Fetched():
                return await self._read(facts, item, found, row)

    def facts(self, item: Item) -> Facts:
        """What the source says of an item."""
        return Facts(
            source=self._source.name,
            key=item.key,
            document=f"{self._source.name}/{item.key}",
            title=item.title,
            modified_s=item.modified_s,
            readers=item.readers,
            metadata=item.metadata,
        )

    async def _read(
        self, facts: Facts, item: Item, found: Fetched, row: Status | None
    ) -> Prepared | Same:
        same = row is not None and row.content == hashlib.sha256(found.raw.data).hexdigest()
        dated = bool(found.modified_s) and row is not None and found.revision != row.revision
        if row is not None and same and not dated:
            return Same(replace(row, revision=found.revision), item.readers)
        dated_facts = replace(facts, modified_s=facts.modified_s or found.modified_s)
        made = await self._reader.prepare(
            dated_facts, found.raw, revision=found.revision, now_s=self._clock()
        )
        # What is compared next time is what the listing says, which has no such date.
        return replace(made, status=replace(made.status, facts=facts.digest))

    def _usable(self, key: str, facts: Facts) -> Status | None:
        """What is known of an item, where it still holds if the item is unchanged."""
        row = self.known.get(key)
        if row is None or row.facts != facts.digest or row.way != self._reader.way:
            return None
        if row.outcome is Outcome.FAILED:
            return None if row.reason in _TRY_AGAIN else row
        if row.outcome is Outcome.SEARCHABLE and self._present.get(row.document) != row.text:
            return None  # the index is the truth, and it has something else
        return replace(row, reason="", detail="") if row.reason == "stale" else row

    def _refused(self, facts: Facts, item: Item, why: Refusal) -> Prepared:
        size = item.size_bytes or 0
        return self._reader.failed(
            facts, why, now_s=self._clock(), revision=item.revision, size_bytes=size
        )

    def _unread(self, facts: Facts, item: Item, why: Refusal) -> Prepared | Same:
        row = self.known.get(item.key)
        if why.reason is not Unreadable.UNAVAILABLE or row is None:
            return self._refused(facts, item, why)
        if row.outcome is Outcome.SEARCHABLE and row.document in self._present:
            # As long as nobody says otherwise, what it said last is what it says; but not to
            # readers who may not have it any more.
            if row.facts == facts.digest and row.way == self._reader.way:
                return Same(replace(row, reason="stale", detail=why.detail), item.readers)
            return self._refused(facts, item, why)
        if row.reason == Unreadable.UNAVAILABLE:  # since when, not when last tried
            made = self._refused(facts, item, why)
            return replace(made, status=replace(made.status, checked_s=row.checked_s))
        return self._refused(facts, item, why)


@dataclass(slots=True)
class Duplicates:
    """Who said what first in this run."""

    _first: dict[tuple[str, frozenset[str] | None], str] = field(
        default_factory=dict[tuple[str, frozenset[str] | None], str]
    )

    def original(self, text: str, readers: frozenset[str] | None, document: str) -> str:
        """The document that said it first to the same readers; `document` where it is the first."""
        return self._first.setdefault((text, readers), document)


def skipped(status: Status, original: str) -> Status:
    """The row of a document that another one makes needless."""
    return replace(
        status,
        outcome=Outcome.SKIPPED,
        reason="duplicate",
        detail=f"duplicate of {original}",
        chunks=0,
        signature=b"",
    )
