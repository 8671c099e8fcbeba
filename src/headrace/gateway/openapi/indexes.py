"""What /v1/indexes takes and answers."""

from headrace.gateway.openapi.answers import CITATION, USAGE
from headrace.gateway.openapi.shapes import (
    ANY_OBJECT,
    BOOLEAN,
    NUMBER,
    TEXT,
    Shape,
    nullable,
    number,
    one,
    record,
    some,
    text,
    whole,
)
from headrace.types import CitationPolicy, DocumentState
from headrace.types.retrieval import SearchMode
from headrace.wire.index_calls import MAX_DOCUMENTS, MAX_K, MAX_KEY, MAX_KEYS, MAX_QUERY
from headrace.wire.webhooks import Change

COUNT: Shape = {"type": "integer", "minimum": 0}
_MAYBE_TEXT = nullable(TEXT)
_MAYBE_NUMBER = nullable(NUMBER)
_POLICY = one(*(item.value for item in CitationPolicy))
_READERS = some(text(0, 256), 0, 1000)
_USED = record({"prompt_tokens": COUNT, "total_tokens": COUNT})
_ABOUT = {"deadline_s": number(0, 86_400, above=True), "user": text(0, 256)}
_WHO = {**_ABOUT, "safety_identifier": text(0, 256), "principals": _READERS, "filter": ANY_OBJECT}

CREATE = record(
    {"name": text(1, 256)},
    {
        "embedder": text(0, 256),
        "shared": BOOLEAN,
        "chunk_tokens": whole(16, 8192),
        "overlap_tokens": whole(0, 4096),
        "parent_tokens": whole(0, 65_536),
        "policy": _POLICY,
        "model": text(0, 256),
        "budget_tokens": whole(0, 1_000_000),
        "k": whole(1, MAX_K),
    },
)
DOCUMENTS = record(
    {
        "documents": some(
            record(
                {"id": text(1, 1024), "text": TEXT},
                {
                    "title": text(0, 1024),
                    "media_type": text(0, 256),
                    "modified_at": number(0, 1e11),
                    "readers": _READERS,
                    "integrity": one("untrusted", "user"),
                    "metadata": ANY_OBJECT,
                },
            ),
            1,
            MAX_DOCUMENTS,
        )
    }
)
_KEY = text(1, MAX_KEY)
SYNC = record({}, {"source": text(0, 256), "only": some(_KEY, 1, MAX_KEYS)})
WEBHOOK = record(
    {
        "source": text(1, 256),
        "events": some(
            record({"type": one(*(item.value for item in Change)), "key": _KEY}), 1, MAX_KEYS
        ),
    }
)
DELIVERY = record(
    {
        "object": one("index.delivery"),
        "id": TEXT,
        "index": TEXT,
        "source": TEXT,
        "status": one("queued", "running", "done", "failed"),
        "items": COUNT,
    }
)
SEARCH = record(
    {"query": text(1, MAX_QUERY)},
    {
        **_WHO,
        "k": whole(1, MAX_K),
        "mode": one(*(item.value for item in SearchMode)),
        "rerank": BOOLEAN,
    },
)
ANSWER = record(
    {"question": text(1, MAX_QUERY)},
    {
        **_WHO,
        "model": text(0, 256),
        "stream": BOOLEAN,
        "k": whole(1, MAX_K),
        "budget_tokens": whole(1, 1_000_000),
        "policy": _POLICY,
        "escalate": text(0, 256),
        "max_tokens": whole(1, 1_000_000),
        "temperature": number(0, 2),
        "seed": whole(-(2**63), 2**63 - 1),
    },
)

INDEX = record(
    {
        "object": one("index"),
        "name": TEXT,
        "created_at": COUNT,
        "org": TEXT,
        "team": TEXT,
        "shared": BOOLEAN,
        "embedder": TEXT,
        "chunk_tokens": COUNT,
        "overlap_tokens": COUNT,
        "parent_tokens": COUNT,
        "policy": _POLICY,
        "model": _MAYBE_TEXT,
        "budget_tokens": nullable(COUNT),
        "k": COUNT,
        "documents": COUNT,
        "chunks": COUNT,
        "failed": COUNT,
        "snapshot": TEXT,
        "migrating": BOOLEAN,
        "generations": some(ANY_OBJECT),
        "sources": some(TEXT),
    }
)
INDEXES = record({"object": one("list"), "data": some(INDEX)})
DELETED_INDEX = record({"name": TEXT, "object": one("index"), "deleted": one(True)})
DOCUMENT = record(
    {
        "object": one("index.document"),
        "id": TEXT,
        "status": one(*(item.value for item in DocumentState)),
        "reason": _MAYBE_TEXT,
        "detail": _MAYBE_TEXT,
        "notes": some(TEXT),
        "title": _MAYBE_TEXT,
        "source": _MAYBE_TEXT,
        "media_type": _MAYBE_TEXT,
        "sha256": _MAYBE_TEXT,
        "modified_at": _MAYBE_NUMBER,
        "chunks": COUNT,
        "readers": nullable(some(TEXT)),
        "metadata": ANY_OBJECT,
        "superseded_by": _MAYBE_TEXT,
        "conflicts": some(TEXT),
    }
)
DELETED_DOCUMENT = record({"id": TEXT, "object": one("index.document"), "deleted": one(True)})
INGESTED = record(
    {
        "object": one("index.ingested"),
        "data": some(DOCUMENT),
        "snapshot": TEXT,
        "embedded_chunks": COUNT,
        "reused_chunks": COUNT,
        "usage": _USED,
    }
)
PAGE = record(
    {
        "object": one("list"),
        "data": some(DOCUMENT),
        "first_id": _MAYBE_TEXT,
        "last_id": _MAYBE_TEXT,
        "has_more": BOOLEAN,
    }
)
SYNCED = record(
    {
        "object": one("list"),
        "data": some(
            record(
                {
                    "object": one("index.synced"),
                    "source": TEXT,
                    "added": COUNT,
                    "changed": COUNT,
                    "removed": COUNT,
                    "unchanged": COUNT,
                    "failed": some(DOCUMENT),
                    "snapshot": TEXT,
                    "embedded_chunks": COUNT,
                    "usage": _USED,
                }
            )
        ),
    }
)
FOUND = record(
    {
        "object": one("list"),
        "data": some(
            record(
                {
                    "object": one("index.passage"),
                    "document": TEXT,
                    "ordinal": COUNT,
                    "start": COUNT,
                    "end": COUNT,
                    "text": TEXT,
                    "headings": some(TEXT),
                    "title": _MAYBE_TEXT,
                    "source": _MAYBE_TEXT,
                    "modified_at": _MAYBE_NUMBER,
                    "integrity": TEXT,
                    "metadata": ANY_OBJECT,
                    "score": NUMBER,
                    "features": ANY_OBJECT,
                    "superseded_by": _MAYBE_TEXT,
                    "conflicts": some(TEXT),
                }
            )
        ),
        "snapshot": TEXT,
        "matching": COUNT,
        "shortfall": _MAYBE_TEXT,
        "notes": some(TEXT),
        "usage": _USED,
    }
)
ANSWERED = record(
    {
        "id": TEXT,
        "object": one("index.answer"),
        "index": TEXT,
        "model": TEXT,
        "created_at": COUNT,
        "answer": TEXT,
        "citations": some(CITATION),
        "in_sources": BOOLEAN,
        "finish_reason": TEXT,
        "usage": USAGE,
    }
)
