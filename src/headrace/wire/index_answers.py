"""Indexes, documents, passages and cited answers as JSON.

An answer that is streamed is frames of one `type` each: `delta` (text), `citation`, `done` (what
the whole answer has beside them), and then `[DONE]`; an error is OpenAI's error frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from headrace.types import (
    Citation,
    Collected,
    DocumentPage,
    DocumentStatus,
    Event,
    Finished,
    IndexCard,
    Ingested,
    Passage,
    SearchResult,
    Started,
    Synced,
    TextDelta,
    Usage,
)
from headrace.wire.citations import citation_object
from headrace.wire.openai_answers import usage_object
from headrace.wire.sse import frame


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerHead:
    """What every frame and every whole answer begins with."""

    id: str
    index: str
    model: str


def index_object(card: IndexCard) -> dict[str, Any]:
    """One index."""
    spec = card.spec
    return {
        "object": "index",
        "name": spec.name,
        "created_at": card.created_s,
        "org": spec.owner.org,
        "team": spec.owner.team,
        "shared": spec.shared,
        "embedder": next((g.embedder for g in card.generations if g.active), spec.embedder),
        "chunk_tokens": spec.chunk_tokens,
        "overlap_tokens": spec.overlap_tokens,
        "parent_tokens": spec.parent_tokens,
        "policy": spec.policy.value,
        "model": spec.model or None,
        "budget_tokens": spec.budget_tokens or None,
        "k": spec.k,
        "documents": card.documents,
        "chunks": card.chunks,
        "failed": card.failed,
        "snapshot": card.snapshot,
        "migrating": card.migrating,
        "generations": [msgspec.to_builtins(item) for item in card.generations],
        "sources": list(card.sources),
    }


def document_object(status: DocumentStatus) -> dict[str, Any]:
    """One document, without its text."""
    return {
        "object": "index.document",
        "id": status.id,
        "status": status.state.value,
        "reason": status.reason or None,
        "detail": status.detail or None,
        "notes": list(status.notes),
        "title": status.title or None,
        "source": status.source or None,
        "media_type": status.media_type or None,
        "sha256": status.sha256 or None,
        "modified_at": status.modified_s or None,
        "chunks": status.chunks,
        "readers": None if status.readers is None else sorted(status.readers),
        "metadata": dict(status.metadata),
        "superseded_by": status.superseded_by or None,
        "conflicts": list(status.conflicts),
    }


def encode_indexes(cards: Sequence[IndexCard]) -> bytes:
    """GET /v1/indexes."""
    return msgspec.json.encode({"object": "list", "data": [index_object(card) for card in cards]})


def encode_page(page: DocumentPage) -> bytes:
    """GET /v1/indexes/NAME/documents."""
    documents = [document_object(item) for item in page.documents]
    return msgspec.json.encode(
        {
            "object": "list",
            "data": documents,
            "first_id": documents[0]["id"] if documents else None,
            "last_id": documents[-1]["id"] if documents else None,
            "has_more": page.more,
        }
    )


def encode_ingested(done: Ingested) -> bytes:
    """POST /v1/indexes/NAME/documents."""
    return msgspec.json.encode(
        {
            "object": "index.ingested",
            "data": [document_object(item) for item in done.documents],
            "snapshot": done.snapshot,
            "embedded_chunks": done.embedded,
            "reused_chunks": done.reused,
            "usage": _usage(done.usage),
        }
    )


def encode_synced(done: Sequence[Synced]) -> bytes:
    """POST /v1/indexes/NAME/sync."""
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [
                {
                    "object": "index.synced",
                    "source": item.source,
                    "added": item.added,
                    "changed": item.changed,
                    "removed": item.removed,
                    "unchanged": item.unchanged,
                    "failed": [document_object(status) for status in item.failed],
                    "snapshot": item.snapshot,
                    "embedded_chunks": item.embedded,
                    "usage": _usage(item.usage),
                }
                for item in done
            ],
        }
    )


def encode_found(found: SearchResult) -> bytes:
    """POST /v1/indexes/NAME/search."""
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [passage_object(item) for item in found.passages],
            "snapshot": found.snapshot,
            "matching": found.matching,
            "shortfall": found.shortfall or None,
            "notes": list(found.notes),
            "usage": _usage(found.usage),
        }
    )


def passage_object(passage: Passage) -> dict[str, Any]:
    """One passage."""
    chunk = passage.chunk
    return {
        "object": "index.passage",
        "document": chunk.document,
        "ordinal": chunk.ordinal,
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
        "headings": list(chunk.headings),
        "title": passage.title or None,
        "source": passage.source or None,
        "modified_at": passage.modified_s or None,
        "integrity": passage.integrity.value,
        "metadata": dict(passage.metadata),
        "score": passage.score,
        "features": dict(passage.features),
        "superseded_by": passage.superseded_by or None,
        "conflicts": list(passage.conflicts),
    }


def encode_answer(head: AnswerHead, whole: Collected) -> bytes:
    """POST /v1/indexes/NAME/answer, all at once."""
    [choice] = whole.choices
    return msgspec.json.encode(
        {
            **_head(head),
            "object": "index.answer",
            "created_at": whole.started.created_s,
            "answer": choice.text,
            "citations": [citation_object(item) for item in choice.citations],
            "in_sources": not choice.not_in_sources,
            "finish_reason": choice.finish.value,
            "usage": usage_object(whole.usage),
        }
    )


class AnswerEncoder:
    """The same as frames."""

    def __init__(self, head: AnswerHead) -> None:
        self._head = head

    def push(self, event: Event) -> bytes:
        """Frames of one event; none for what an answer does not show."""
        match event:
            case Started():
                return self._frame("started", created_at=event.created_s)
            case TextDelta() if event.text:
                return self._frame("delta", text=event.text)
            case Citation():
                return self._frame("citation", citation=citation_object(event))
            case Finished():
                return self._frame(
                    "done",
                    in_sources=not event.not_in_sources,
                    finish_reason=event.reason.value,
                    usage=usage_object(event.usage or Usage()),
                )
            case _:
                return b""

    def _frame(self, type: str, **fields: object) -> bytes:
        return frame(msgspec.json.encode({"type": type, **_head(self._head), **fields}))


def _head(head: AnswerHead) -> dict[str, Any]:
    return {"id": head.id, "index": head.index, "model": head.model}


def _usage(usage: Usage) -> dict[str, int]:
    return {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens}
