"""Why a document was not among the passages: not there, hidden, filtered, or ranked further down.

Invariant: who asks learns no more than a search of his own would tell him; to him what is hidden is
not there.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from headrace.retrieval.contracts import Scope
from headrace.retrieval.ranking.retriever import Retriever
from headrace.types import Passage, SearchMode, SearchRequest

_DEEPEST = 10_000


class Reason(StrEnum):
    FOUND = "found"
    ABSENT = "absent"  # no such document, or none that who asks may know of
    HIDDEN = "hidden"  # those who searched may not read it
    FILTERED = "filtered"  # the request's filter leaves it out
    OUTRANKED = "outranked"  # others came before it
    UNLISTED = (
        "unlisted"  # in neither list: no word in common, and further off than all that is listed
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where one document stands in the answer to one request."""

    document: str
    reason: Reason
    said: str
    """The same as a sentence."""
    keyword_rank: int = 0
    """Of its best chunk, from 1; 0 = not listed."""
    vector_rank: int = 0
    rank: int = 0
    """In the end, among all that was ranked."""
    passage: Passage | None = None
    """Its best chunk with what its score was made of."""


async def why(
    retriever: Retriever,
    request: SearchRequest,
    document: str,
    *,
    asker: frozenset[str] | None,
) -> Standing:
    """Where a document stands in the answer to a request.

    Args:
        retriever: What answered.
        request: What was asked; its principals are those who searched.
        document: Its id.
        asker: Principals of who wants to know; None = an administrator.
    """
    store = retriever.store

    def standing(reason: Reason, said: str) -> Standing:
        return Standing(document=document, reason=reason, said=said)

    if await store.document(document, Scope(principals=asker)) is None:
        return standing(Reason.ABSENT, f"there is no document {document!r} in {request.index!r}")
    if await store.document(document, Scope(principals=request.principals)) is None:
        return standing(Reason.HIDDEN, "those who searched may not read it")
    scope = Scope(principals=request.principals, filter=request.filter)
    if await store.document(document, scope) is None:
        return standing(Reason.FILTERED, "the filter of the request leaves it out")
    return await _ranked(retriever, request, document)


async def _ranked(retriever: Retriever, request: SearchRequest, document: str) -> Standing:
    """Ranks in each list as deep as they go, and in the answer."""
    scope = Scope(principals=request.principals, filter=request.filter)
    listed = await retriever.store.keyword(request.query, _DEEPEST, scope)
    keyword_rank = _rank(listed.passages, document)
    vector_rank = 0
    if request.mode is not SearchMode.KEYWORD:
        nearest = await retriever.search(
            replace(request, mode=SearchMode.VECTOR, k=_DEEPEST, deadline_s=None)
        )
        vector_rank = _rank(nearest.passages, document)
    depth = max(request.k, retriever.settings.depth)
    answer = await retriever.search(replace(request, k=depth, deadline_s=None))
    rank = _rank(answer.passages, document)
    if not rank:
        reason, said = Reason.UNLISTED, f"it is not among the first {depth} of any list"
    elif rank <= request.k:
        reason, said = Reason.FOUND, f"it is at place {rank}"
    else:
        reason, said = Reason.OUTRANKED, f"it is at place {rank}, and {request.k} were asked for"
    ranks = f"; by keywords {_place(keyword_rank)}, by vectors {_place(vector_rank)}"
    return Standing(
        document=document,
        reason=reason,
        said=said + ranks,
        keyword_rank=keyword_rank,
        vector_rank=vector_rank,
        rank=rank,
        passage=answer.passages[rank - 1] if rank else None,
    )


def _rank(passages: tuple[Passage, ...], document: str) -> int:
    places = (at for at, p in enumerate(passages, 1) if p.chunk.document == document)
    return next(places, 0)


def _place(rank: int) -> str:
    return f"at place {rank}" if rank else "not at all"
