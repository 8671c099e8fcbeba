"""A store that gives what is put into it vectors of every generation whose model is here.

Whoever brings documents knows the active generation alone; a second one that is being built, or
kept to go back to, then lacks nothing of what arrives.
"""

from collections.abc import Sequence

from headrace.retrieval import vectors
from headrace.retrieval.contracts import Entry, IndexStore
from headrace.retrieval.pinned import Passing
from headrace.types import Errand


class Doubling(Passing):
    """Of one errand."""

    def __init__(self, store: IndexStore, errand: Errand) -> None:
        super().__init__(store)
        self._errand = errand

    async def put(self, entries: Sequence[Entry]) -> str:
        """As `IndexStore.put`, in all generations."""
        models = await vectors.models_of(self._store, self._errand)
        return await self._store.put([await self._whole(entry, models) for entry in entries])

    async def _whole(self, entry: Entry, models: Sequence[vectors.Model]) -> Entry:
        made = dict(entry.vectors)
        for model in models:
            number = model.generation.number
            if number not in made:
                have = await vectors.make(self._store, model, entry.chunks, self._errand)
                made[number] = vectors.joined(entry.chunks, have)
        return Entry(document=entry.document, chunks=entry.chunks, vectors=made, marks=entry.marks)
