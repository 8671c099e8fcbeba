"""What an operator should know of an index: is it whole, does it find what it has, is it fresh."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.config import SourceSettings
from headrace.retrieval.contracts import Generation, IndexStore, Scope
from headrace.retrieval.opened import EVERYTHING, OpenIndex
from headrace.retrieval.sync.freshness import SourceStanding, freshness
from headrace.types import Chunk, DocumentStatus, OneOf

_PROBES = 50
_K = 10
_FILTERED = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """Of one index."""

    problems: tuple[str, ...]
    """In sentences; empty = it is whole."""
    probes: int
    recall: float
    """Chunks that are found by their own vector, of those that were asked for; 1 where there are
    none."""
    filtered_recall: float
    """The same under a filter that lets a tenth of the documents through."""
    failed: tuple[DocumentStatus, ...]
    stale: tuple[str, ...]
    """Sources that are further behind than they may be, in sentences."""


async def look(index: OpenIndex, sources: Mapping[str, SourceSettings], *, now_s: float) -> Health:
    """Check the store, and find again what it has."""
    store = index.store
    problems = list(await store.check())
    active = await store.active()
    rows = [row async for row in store.documents(EVERYTHING)]
    every = max(1, len(rows) // _PROBES)
    chosen = [row.id for row in rows[::every]][:_PROBES]
    kept = [row.id for at, row in enumerate(rows) if at % round(1 / _FILTERED) == 0]
    within = Scope(principals=None, filter=OneOf(field="id", values=tuple(kept[:900])))
    found = [await _found(store, active, id, EVERYTHING) for id in chosen]
    filtered = [await _found(store, active, id, within) for id in kept[:_PROBES]]
    failed = await index.statuses(None, after="", limit=1_000_000)
    stale = [] if not sources else _stale(await index.beside.sources(), sources, now_s)
    return Health(
        problems=tuple(problems),
        probes=len(found) + len(filtered),
        recall=_share(found),
        filtered_recall=_share(filtered),
        failed=tuple(item for item in failed if item.reason),
        stale=tuple(stale),
    )


async def _found(store: IndexStore, active: Generation, id: str, scope: Scope) -> bool:
    """Whether a document's first chunk is found by its own vector."""
    chunks: Sequence[Chunk] = await store.neighbours(id, 0, 0, EVERYTHING)
    if not chunks:
        return False
    have = await store.vectors_of(active.number, [chunks[0].sha256])
    vector = have.get(chunks[0].sha256)
    if vector is None:
        return False
    found = await store.nearest(active.number, vector, _K, scope)
    texts = {passage.chunk.embedded for passage in found.passages}
    # Many documents may say the same: any of them is as near.
    return chunks[0].embedded in texts


def _stale(
    known: Mapping[str, SourceStanding], sources: Mapping[str, SourceSettings], now_s: float
) -> list[str]:
    said: list[str] = []
    for name, source in sources.items():
        standing = known.get(name, SourceStanding(source=name))
        found = freshness(standing, objective_s=source.fresh_s, now_s=now_s)
        if found.behind_s is None:
            said.append(f"{name} was never synced")
        elif not found.kept:
            said.append(
                f"{name} is {found.behind_s:.0f} s behind, more than {source.fresh_s} s; "
                f"{found.why or 'sync it'}"
            )
    return said


def _share(found: Sequence[bool]) -> float:
    return sum(found) / len(found) if found else 1.0
