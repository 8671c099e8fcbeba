"""A model → the same model, answering the last question of a conversation from an index.

Search with the caller's eyes, pack what was found into the room that is left, ask, check what is
cited. Each step is a note on the request's trail; every call that costs is a leg that its own
backend leaves there. Invariants: nothing of a passage reaches the model but as a part labelled
untrusted; the prompt is never above its budget; a citation is told after the text it speaks of.
"""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from headrace.errors import InvalidParameter, UnsupportedParameter
from headrace.providers.resilience import closing
from headrace.retrieval.answering.abstaining import relevance
from headrace.retrieval.answering.held import Held
from headrace.retrieval.answering.options import Answering
from headrace.retrieval.answering.styles import (
    REFUSAL,
    Asked,
    StyleName,
    compose,
    last_turn,
    new_mark,
)
from headrace.retrieval.answering.told import Telling
from headrace.retrieval.answering.verifying import Verifier
from headrace.retrieval.packing import Packed, UpperBound, pack
from headrace.retrieval.packing.sources import Source
from headrace.types import (
    Backend,
    ChatRequest,
    CitationPolicy,
    Event,
    Finished,
    FinishReason,
    FormatKind,
    Quote,
    SearchRequest,
    SearchResult,
    SourceDocument,
    Started,
    TextDelta,
    Usage,
)

UNKNOWN_CONTEXT = 8192
"""Of a model that says nothing of its context."""
_TOLD = 8
"""Passages that are named in the note of those left out."""


class WithContext:
    """A `Backend` around another one; retrieval as a stage of the chat pipeline."""

    def __init__(self, backend: Backend, how: Answering) -> None:
        """
        Raises: InvalidParameter: Policy escalate without whom to escalate to.
        """
        if how.policy is CitationPolicy.ESCALATE and how.escalate is None:
            raise InvalidParameter(
                "policy escalate needs another model to ask; name one, or choose retry",
                param="policy",
            )
        self._backend = backend
        self._how = how

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`."""
        how = replace(self._how, style=self._how.styles.get(request.model, self._how.style))
        async with closing(_Asking(self._backend, how).stream(request)) as events:
            async for event in events:
                yield event


class _Asking:
    """One request, in its model's style."""

    def __init__(self, backend: Backend, how: Answering) -> None:
        self._backend = backend
        self._how = how

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        _refuse_unanswerable(request, self._how)
        asked = await self._asked(request)
        seen_s = int(time.time())
        found = await self._search(asked)
        if found is None:
            for event in _not_said(request):
                yield event
            return
        packed = await self._pack(asked, found, seen_s)
        verifier = Verifier(
            packed.sources, question=asked.question, bars=self._how.bars, judge=self._how.judge
        )
        async with closing(self._answer(packed, verifier)) as events:
            async for event in events:
                yield event

    async def _asked(self, request: ChatRequest) -> Asked:
        said = request.messages[last_turn(request)].text
        question = said
        if self._how.rewrite is not None:
            question = (await self._how.rewrite(request)).strip() or said
            if question != said:
                request.trail.note("retrieval", f"searched for: {question[:400]}", rewritten=True)
        return Asked(request=request, question=question, mark=new_mark())

    async def _search(self, asked: Asked) -> SearchResult | None:
        """What was found; None = it is not worth asking a model about."""
        how, request = self._how, asked.request
        began = time.monotonic()
        found = await how.search(
            SearchRequest(
                index=how.index,
                query=asked.question,
                k=how.k,
                filter=how.filter,
                principals=how.principals,
                deadline_s=request.deadline_s,
                caller=request.caller,
                trace=request.trace,
            )
        )
        relevant = relevance(found)
        request.trail.note(
            "retrieval",
            f"{len(found.passages)} passages of {how.index}"
            + (f"; {found.shortfall}" if found.shortfall else ""),
            index=how.index,
            snapshot=found.snapshot,
            passages=len(found.passages),
            matching=found.matching,
            relevance=round(relevant, 4),
            seconds=round(time.monotonic() - began, 4),
        )
        for note in found.notes:
            request.trail.note("retrieval", note)
        if not found.passages or (how.abstain_below is not None and relevant < how.abstain_below):
            request.trail.note(
                "answer", "the sources do not say: no model was asked", not_in_sources=True
            )
            return None
        return found if how.compress is None else await how.compress(found, asked.question)

    async def _pack(self, asked: Asked, found: SearchResult, seen_s: int) -> Packed:
        how = self._how
        documents = await self._documents(found)

        def composed(sources: Sequence[Source]) -> ChatRequest:
            return compose(how.style, asked, sources)

        counter = how.counter or UpperBound()
        budget = await self._budget(asked.request)
        packed = await pack(
            found.passages,
            composed,
            counter,
            budget,
            documents=documents,
            readers=how.principals,
            options=how.packing,
        )
        asked.request.trail.quotes.extend(_quotes(how, packed, seen_s))
        _tell_packed(asked.request, packed)
        return packed

    async def _budget(self, request: ChatRequest) -> int:
        """Tokens of the whole prompt: the conversation's own and what sources may add, within what
        the context leaves."""
        how = self._how
        context = how.context_tokens or UNKNOWN_CONTEXT
        reserve = request.sampling.max_tokens or min(how.answer_tokens, context // 4)
        own = await (how.counter or UpperBound()).count(request)
        return min(context - reserve, own + (how.budget_tokens or context // 2))

    async def _documents(self, found: SearchResult) -> dict[str, SourceDocument]:
        if self._how.fetch is None:
            return {}
        ids = dict.fromkeys(passage.chunk.document for passage in found.passages)
        fetched = [(id, await self._how.fetch(id)) for id in ids]
        return {id: document for id, document in fetched if document is not None}

    async def _answer(self, packed: Packed, verifier: Verifier) -> AsyncIterator[Event]:
        how = self._how
        request = packed.request
        policy = how.policy
        if request.format.kind is not FormatKind.TEXT and policy is CitationPolicy.STRIKE:
            request.trail.note("citations", "an answer that must be JSON is annotated, not struck")
            policy = CitationPolicy.ANNOTATE
        if policy in (CitationPolicy.ANNOTATE, CitationPolicy.STRIKE):
            telling = Telling(verifier, strike=policy is CitationPolicy.STRIKE)
            stream = telling.told(self._backend.stream(request))
            async with closing(stream):
                async for event in stream:
                    yield event
            telling.note(request)
            return
        held = Held(self._backend, verifier, how)
        async with closing(held.stream(request)) as stream:
            async for event in stream:
                yield event


def _refuse_unanswerable(request: ChatRequest, how: Answering) -> None:
    if how.style is StyleName.QUOTE and request.continue_final_message:
        raise UnsupportedParameter(
            "`continue_final_message` cannot be combined with answers by quotation; leave it out",
            param="continue_final_message",
        )


def _not_said(request: ChatRequest) -> list[Event]:
    """An answer that no model was asked for."""
    choices = range(request.sampling.n)
    started = Started(
        id=request.trace, model=request.model, created_s=int(time.time()), prompt_tokens=0
    )
    return [
        started,
        *(TextDelta(text=REFUSAL, index=index) for index in choices),
        *(
            Finished(
                reason=FinishReason.STOP,
                index=index,
                usage=Usage() if index == choices[-1] else None,
                not_in_sources=True,
            )
            for index in choices
        ),
    ]


def _quotes(how: Answering, packed: Packed, seen_s: int) -> list[Quote]:
    owner = how.owner
    return [
        Quote(org=owner.org, team=owner.team, index=how.index, document=document, seen_s=seen_s)
        for document in dict.fromkeys(source.document for source in packed.sources)
    ]


def _tell_packed(request: ChatRequest, packed: Packed) -> None:
    shown = "; ".join(
        f"[{source.number}] {source.document}:{source.start}-{source.end}"
        for source in packed.sources
    )
    request.trail.note(
        "packing",
        packed.notes[0] if packed.notes else "no sources",
        tokens=packed.tokens,
        budget=packed.budget,
        sources=shown[:2000],
        left_out=len(packed.left_out),
    )
    for note in packed.notes[1:]:
        request.trail.note("packing", note)
    for item in packed.left_out[:_TOLD]:
        chunk = item.passage.chunk
        request.trail.note(
            "packing", f"{chunk.document}:{chunk.start}-{chunk.end} is left out: {item.reason}"
        )
