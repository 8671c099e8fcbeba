"""Passages, best first → the prompt with as many of them as fit, exactly.

What is counted is the request that will be sent, whole, so nothing has to add up: a set of sources
is taken only after its own prompt was counted. Invariants: the prompt is never above the budget;
every source is its document's text word for word; no character of a document is shown twice, nor a
text that a better passage has; the same passages and counts give the same prompt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from headrace.errors import ContextLengthExceeded, InvalidParameter
from headrace.retrieval.packing.duplicates import Duplicates, distinct
from headrace.retrieval.packing.sources import LeftOut, Order, Packed, PackOptions, Source
from headrace.retrieval.packing.spans import Piece, agrees, has_parent, merge, piece_of
from headrace.retrieval.sentences import sentence_spans
from headrace.types import ChatRequest, Passage, SourceDocument, TokenCounter

Compose = Callable[[Sequence[Source]], ChatRequest]
"""Numbered sources → the request that asks with them; a pure function."""

_NEAR_EDGES = 5
_Ranked = tuple[int, Passage]


async def pack(
    passages: Sequence[Passage],
    compose: Compose,
    counter: TokenCounter,
    budget: int,
    *,
    documents: Mapping[str, SourceDocument] | None = None,
    readers: frozenset[str] | None = None,
    options: PackOptions | None = None,
) -> Packed:
    """Choose, merge, order and number.

    Args:
        passages: As a search found them, best first.
        compose: Makes the request.
        counter: Counts it; at most a few dozen times.
        budget: Tokens that the prompt may have.
        documents: Whole documents by id, as far as they are known: parents are shown and white
            space between neighbours is bridged only with them.
        readers: Who may see passages of documents that are not known.
        options: How.

    Raises:
        ContextLengthExceeded: The prompt without any source is above the budget.
    """
    packing = _Packing(compose, counter, budget, documents or {}, readers, options or PackOptions())
    return await packing.run(passages)


class _Packing:
    def __init__(
        self,
        compose: Compose,
        counter: TokenCounter,
        budget: int,
        documents: Mapping[str, SourceDocument],
        readers: frozenset[str] | None,
        options: PackOptions,
    ) -> None:
        if options.attempts < 0 or options.near < 0:
            raise InvalidParameter(
                f"`attempts` {options.attempts} and `near` {options.near} must not be below 0"
            )
        self._compose = compose
        self._counter = counter
        self._budget = budget
        self._documents = documents
        self._readers = readers
        self._options = options
        self._left: list[LeftOut] = []
        self._notes: list[str] = []
        self._also: dict[int, list[str]] = {}

    async def run(self, passages: Sequence[Passage]) -> Packed:
        empty = await self._count(())
        if empty > self._budget:
            raise ContextLengthExceeded(
                f"the prompt without any source has {empty} tokens and {self._budget} are left for "
                "it; shorten the conversation or lower `max_tokens`",
                param="messages",
            )
        candidates = _with_opponents(self._sound(passages))
        candidates = await self._within_shares(candidates, empty)
        chosen = await self._fitting(candidates)
        pieces = [self._alone(rank, passage) for rank, passage in chosen]
        if not pieces and candidates:
            pieces = await self._cut(candidates[0])
        elif self._options.parents:
            pieces = await self._with_parents(pieces)
        sources = self._numbered(merge(pieces, self._documents))
        tokens = await self._count(sources)
        shown = {(source.document, ordinal) for source in sources for ordinal in source.ordinals}
        for _, passage in chosen:
            if sources and (passage.chunk.document, passage.chunk.ordinal) not in shown:
                self._leave(passage, "what stands beside it in a better source says the same")
        self._tell(sources, tokens)
        return Packed(
            request=self._compose(sources),
            sources=tuple(sources),
            tokens=tokens,
            budget=self._budget,
            left_out=tuple(self._left),
            notes=tuple(self._notes),
        )

    def _sound(self, passages: Sequence[Passage]) -> list[_Ranked]:
        """Those that may be shown at all."""
        found: list[_Ranked] = []
        seen: set[tuple[str, int, int]] = set()
        ranks: dict[int, int] = {}
        duplicates = Duplicates(self._options.near)
        for rank, passage in enumerate(passages):
            chunk = passage.chunk
            if passage.superseded_by and not self._options.superseded:
                self._leave(passage, f"{passage.superseded_by} replaces its document")
            elif (chunk.document, chunk.start, chunk.end) in seen:
                self._leave(passage, "it was found twice")
            elif not agrees(passage, self._documents.get(chunk.document)):
                self._leave(passage, "its document has changed since: the span says other words")
            elif (better := duplicates.find(passage)) is not None:
                self._leave(passage, f"a passage of {better.chunk.document} says the same")
                self._also.setdefault(ranks[id(better)], []).append(chunk.document)
            else:
                seen.add((chunk.document, chunk.start, chunk.end))
                rank, found = self._instead(duplicates, rank, passage, found)
                ranks[id(passage)] = rank
                found = sorted([*found, (rank, passage)], key=lambda item: item[0])
        return found

    def _instead(
        self, duplicates: Duplicates, rank: int, passage: Passage, found: list[_Ranked]
    ) -> tuple[int, list[_Ranked]]:
        """Where a passage says what better ones do, and more, it has the best one's place."""
        inner = duplicates.swallowed(passage)
        for item in inner:
            self._leave(item, f"a passage of {passage.chunk.document} says the same and more")
            self._also.setdefault(rank, []).append(item.chunk.document)
        gone = {id(item) for item in inner}
        ranks = [at for at, item in found if id(item) in gone]
        best = min([rank, *ranks])
        said = self._also.pop(rank, [])
        for at in ranks:
            said += self._also.pop(at, [])
        if said:
            self._also[best] = said
        return best, [pair for pair in found if id(pair[1]) not in gone]

    async def _within_shares(self, candidates: list[_Ranked], empty: int) -> list[_Ranked]:
        """Without what goes beyond the tokens of its own source."""
        limits = self._options.source_tokens
        taken: dict[str, list[_Ranked]] = {}
        kept: list[_Ranked] = []
        for rank, passage in candidates:
            limit = limits.get(passage.source)
            if limit is not None:
                trial = [*taken.get(passage.source, []), (rank, passage)]
                cost = await self._count(self._sources(trial)) - empty
                if cost > limit:
                    self._leave(
                        passage, f"{passage.source} would take {cost} tokens of its {limit}"
                    )
                    continue
                taken[passage.source] = trial
            kept.append((rank, passage))
        return kept

    async def _fitting(self, candidates: list[_Ranked]) -> list[_Ranked]:
        """The longest beginning that fits, and after it whatever else does."""
        if not candidates or await self._fits(candidates):
            return candidates
        fits, above = 0, len(candidates)
        while above - fits > 1:
            middle = (fits + above) // 2
            if await self._fits(candidates[:middle]):
                fits = middle
            else:
                above = middle
        chosen = candidates[:fits]
        for attempt, candidate in enumerate(candidates[fits:]):
            # The first of them is what the beginning could not take.
            if 0 < attempt <= self._options.attempts and await self._fits([*chosen, candidate]):
                chosen.append(candidate)
            else:
                self._leave(candidate[1], f"no room is left for it in {self._budget} tokens")
        return chosen

    async def _with_parents(self, pieces: list[Piece]) -> list[Piece]:
        tried = 0
        for at, piece in enumerate(pieces):
            document = self._documents.get(piece.document)
            if not has_parent(piece.best, document) or tried == self._options.attempts:
                continue
            tried += 1
            larger = piece_of(piece.rank, piece.best, document, parent=True)
            trial = [*pieces[:at], larger, *pieces[at + 1 :]]
            sources = self._numbered(merge(trial, self._documents))
            if await self._count(sources) <= self._budget:
                pieces = trial
        return pieces

    async def _cut(self, candidate: _Ranked) -> list[Piece]:
        """The first sentences of the best passage that fit, where nothing fits whole."""
        whole = self._alone(*candidate)
        ends = [end for _, end in sentence_spans(whole.text)]
        fits = 0
        while ends:
            middle = len(ends) // 2
            sources = self._numbered([_shortened(whole, ends[middle])])
            if await self._count(sources) <= self._budget:
                fits, ends = ends[middle], ends[middle + 1 :]
            else:
                ends = ends[:middle]
        if not fits:
            return []
        self._notes.append("no passage fits whole: the best is cut after a sentence")
        self._left = [item for item in self._left if item.passage is not candidate[1]]
        return [_shortened(whole, fits)]

    def _alone(self, rank: int, passage: Passage) -> Piece:
        return piece_of(rank, passage, None, parent=False)

    def _sources(self, chosen: Sequence[_Ranked]) -> list[Source]:
        pieces = [self._alone(rank, passage) for rank, passage in chosen]
        return self._numbered(merge(pieces, self._documents))

    async def _fits(self, chosen: Sequence[_Ranked]) -> bool:
        return await self._count(self._sources(chosen)) <= self._budget

    async def _count(self, sources: Sequence[Source]) -> int:
        return await self._counter.count(self._compose(sources))

    def _numbered(self, pieces: Sequence[Piece]) -> list[Source]:
        ordered = _ordered(distinct(pieces), self._options.order)
        return [
            self._source(number, piece, ordered) for number, piece in enumerate(ordered, start=1)
        ]

    def _source(self, number: int, piece: Piece, among: Sequence[Piece]) -> Source:
        best = piece.best
        document = self._documents.get(piece.document)
        said_otherwise = {id for _, passage in piece.ranked for id in passage.conflicts}
        against = tuple(
            at
            for at, other in enumerate(among, start=1)
            if other.document in said_otherwise
            or any(piece.document in passage.conflicts for _, passage in other.ranked)
        )
        also = dict.fromkeys(
            id
            for rank, _ in piece.ranked
            for id in self._also.get(rank, ())
            if id != best.chunk.document
        )
        return Source(
            number=number,
            document=piece.document,
            start=piece.start,
            end=piece.end,
            text=piece.text,
            title=best.title,
            headings=best.chunk.headings,
            source=best.source,
            modified_s=best.modified_s,
            readers=self._readers if document is None else document.readers,
            rank=piece.rank,
            score=best.score,
            ordinals=tuple(sorted({passage.chunk.ordinal for _, passage in piece.ranked})),
            also=tuple(also),
            conflicts=against,
            superseded_by=best.superseded_by,
            cut=piece.cut,
        )

    def _leave(self, passage: Passage, reason: str) -> None:
        self._left.append(LeftOut(passage=passage, reason=reason))

    def _tell(self, sources: Sequence[Source], tokens: int) -> None:
        self._notes.insert(
            0, f"{len(sources)} sources in a prompt of {tokens} tokens, of {self._budget}"
        )
        told = [
            f"[{s.number}] and [{n}] disagree" for s in sources for n in s.conflicts if s.number < n
        ]
        self._notes += told
        superseded = sum(1 for item in self._left if item.passage.superseded_by)
        if superseded:
            self._notes.append(f"{superseded} passages of replaced documents were left out")


def _shortened(piece: Piece, length: int) -> Piece:
    return replace(piece, end=piece.start + length, text=piece.text[:length], cut=True)


def _with_opponents(candidates: Sequence[_Ranked]) -> list[_Ranked]:
    """Behind each passage the best of every document that says otherwise: a conflict is shown from
    both sides or not at all."""
    ordered: list[_Ranked] = []
    placed: set[int] = set()
    for rank, passage in candidates:
        if rank in placed:
            continue
        placed.add(rank)
        ordered.append((rank, passage))
        for id in passage.conflicts:
            other = next((item for item in candidates if item[1].chunk.document == id), None)
            if other is not None and other[0] not in placed:
                placed.add(other[0])
                ordered.append(other)
    return ordered


def _ordered(pieces: Sequence[Piece], order: Order) -> list[Piece]:
    ranked = sorted(pieces, key=lambda piece: piece.rank)
    if order is Order.RANK or (order is Order.AUTO and len(ranked) <= _NEAR_EDGES):
        return ranked
    return ranked[0::2] + ranked[1::2][::-1]
