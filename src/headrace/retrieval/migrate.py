"""Another embedding model for an index, while it goes on answering with the old one.

    begin → fill → compare → cut over → (roll back) → finish

The new generation is built beside the old in the same store; writes that arrive go to both. What is
done is read from the store itself, and the plan beside it only says what is wanted, so that whoever
is killed at any point goes on where it was. The old generation stays, and is written to, until
`finish`: rolling back is one transaction.

Source of the comparison: paired differences of questions, clustered (Miller 2024, "Adding Error
Bars to Evals").
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from headrace.errors import Conflict, NotFound, StoreUnavailable
from headrace.retrieval import vectors
from headrace.retrieval.contracts import Generation
from headrace.retrieval.opened import OpenIndex, generation_for
from headrace.types import Embedder, Errand

_AT_ONCE = 512
_TRIES = 20


class Phase(StrEnum):
    BUILDING = "building"
    BUILT = "built"  # every chunk has its vector; the old one answers
    DONE = "done"  # the new one answers, the old one is kept
    ROLLED_BACK = "rolled_back"  # the old one answers again, the new one is kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What was asked for; kept beside the index until `finish`."""

    old: int
    new: int
    embedder: str
    fingerprint: str
    dimensions: int
    chunking: str

    @property
    def generation(self) -> Generation:
        return Generation(
            number=self.new,
            embedder=self.embedder,
            fingerprint=self.fingerprint,
            dimensions=self.dimensions,
            chunking=self.chunking,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How far a migration is."""

    plan: Plan
    phase: Phase
    missing: int = 0
    """Chunks without a vector of the new generation, as far as they were counted."""


class Migration:
    """Of one index. Two processes may run one: both fill, and filling twice is filling once."""

    def __init__(self, index: OpenIndex) -> None:
        self._index = index
        self._store = index.store
        self._beside = index.beside

    async def standing(self) -> Standing | None:
        """How far it is; None = there is none."""
        plan = await self._plan()
        if plan is None:
            return None
        numbers = {item.number for item in await self._store.generations()}
        active = (await self._store.active()).number
        if plan.new not in numbers:
            return Standing(plan=plan, phase=Phase.BUILDING)
        if active == plan.new:
            return Standing(plan=plan, phase=Phase.DONE)
        missing = len(await self._store.missing(plan.new, _AT_ONCE))
        phase = Phase.BUILDING if missing else Phase.BUILT
        if not missing and await self._was_over():
            phase = Phase.ROLLED_BACK
        return Standing(plan=plan, phase=phase, missing=missing)

    async def begin(self, embedder: Embedder, errand: Errand) -> Plan:
        """Start, or go on with, a generation of this model.

        Raises: Conflict: Another migration is under way, or the model is the active one's.
        """
        plan = await self._plan()
        if plan is None:
            plan = await self._planned(embedder, errand)
            await self._beside.set_plan(msgspec.json.encode(plan))
        elif plan.fingerprint != vectors.fingerprint_of(embedder):
            raise Conflict(
                f"a migration to {plan.embedder!r} is under way; go on with it, or end it: "
                "headrace index migrate --finish"
            )
        if plan.new not in {item.number for item in await self._store.generations()}:
            await self._store.begin(plan.generation)
        return plan

    async def fill(self, errand: Errand) -> AsyncIterator[int]:
        """Make the vectors that the new generation lacks; says how many it made, as it goes."""
        plan = await self._must()
        model = vectors.model_of(plan.generation, errand)
        while texts := await self._store.missing(plan.new, _AT_ONCE):
            made, _ = await vectors.embed(model.embedder, texts, errand)
            yield await self._store.fill(plan.new, made)

    async def cut_over(self, errand: Errand) -> None:
        """The new generation answers from now on, in one transaction.

        What was written while it was checked whether anything lacks is filled first.
        """
        plan = await self._must()
        await self._activate(plan.generation, errand)
        over = {**msgspec.to_builtins(plan), "over": True}
        await self._beside.set_plan(msgspec.json.encode(over))

    async def roll_back(self, errand: Errand) -> None:
        """The old generation answers again.

        Raises: Conflict: There is none; NotFound: It was dropped.
        """
        plan = await self._must()
        old = next((g for g in await self._store.generations() if g.number == plan.old), None)
        if old is None:
            raise NotFound(f"generation {plan.old} was dropped; migrate to its model anew")
        await self._activate(old, errand)

    async def finish(self) -> None:
        """Keep the generation that answers, drop the other, forget the migration."""
        plan = await self._must()
        active = (await self._store.active()).number
        for generation in await self._store.generations():
            if generation.number in (plan.old, plan.new) and generation.number != active:
                await self._store.drop(generation.number)
        await self._store.purge()
        await self._beside.set_plan(None)

    async def _activate(self, generation: Generation, errand: Errand) -> None:
        for attempt in range(_TRIES):
            try:
                await self._store.activate(generation.number)
            except Conflict:
                # Written by a process without this model since the last look.
                if attempt + 1 == _TRIES:
                    raise
                model = vectors.model_of(generation, errand)
                while texts := await self._store.missing(generation.number, _AT_ONCE):
                    made, _ = await vectors.embed(model.embedder, texts, errand)
                    await self._store.fill(generation.number, made)
            else:
                return

    async def _planned(self, embedder: Embedder, errand: Errand) -> Plan:
        active = await self._store.active()
        fingerprint = vectors.fingerprint_of(embedder)
        if fingerprint == active.fingerprint:
            raise Conflict(
                f"the index is embedded by {active.embedder!r} of this fingerprint already "
                f"({fingerprint[:16]})"
            )
        if active.chunking != self._index.cutter.digest:
            raise Conflict(
                "the index is cut otherwise than it would be now, and one index has one cut: make "
                "a new index with the new model and sync it"
            )
        number = 1 + max(item.number for item in await self._store.generations())
        made = await generation_for(number, embedder, active.chunking, errand)
        return Plan(
            old=active.number,
            new=number,
            embedder=made.embedder,
            fingerprint=made.fingerprint,
            dimensions=made.dimensions,
            chunking=made.chunking,
        )

    async def _plan(self) -> Plan | None:
        kept = await self._beside.plan()
        try:
            return None if kept is None else msgspec.json.decode(kept, type=Plan)
        except msgspec.DecodeError as error:
            raise StoreUnavailable(f"the plan of this migration cannot be read: {error}") from error

    async def _was_over(self) -> bool:
        return b'"over"' in (await self._beside.plan() or b"")

    async def _must(self) -> Plan:
        plan = await self._plan()
        if plan is None:
            raise Conflict("no migration is under way in this index")
        return plan
