"""What each route takes and answers: one entry a route, beside the table of routes itself.

A test holds that every route has an entry and every entry a route; schemathesis holds that they are
true.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.gateway.openapi import answers, indexes, requests
from headrace.gateway.openapi.shapes import (
    ANY_OBJECT,
    ANYTHING,
    TEXT,
    Shape,
    one,
    record,
    some,
    text,
    whole,
)
from headrace.wire.responses_request import ENCRYPTED
from headrace.wire.webhooks import ID, MAX_ID, SIGNATURE, TIMESTAMP

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One method of one path, as its clients see it."""

    tag: str
    answer: Shape
    kind: str = JSON
    """Content type of the answer."""
    streams: bool = False
    """Whether the body may ask for a stream of events instead."""
    body: Shape | None = None
    form: bool = False
    """The body is a form with a file, not JSON."""
    query: Mapping[str, Shape] = field(default_factory=dict[str, Shape])
    error: Shape = field(default_factory=lambda: answers.ERROR)
    bodiless: bool = False
    """Whether the body may be left out."""
    headers: Mapping[str, Shape] = field(default_factory=dict[str, Shape])
    """That it needs beside the key."""
    missing: bool = False
    """Whether what it names may not be there."""
    conflict: str = ""
    """When it answers 409; empty = never."""


UNTOLD = Operation(tag="other", answer=ANYTHING, missing=True)
"""Of a route without an entry: true, and vague. A test fails where there is one."""

_ORDER = one("asc", "desc")
_INCLUDE: Mapping[str, Shape] = {
    "include": some(one(ENCRYPTED, "message.input_image.image_url")),
}
_UPLOAD = record(
    {"file": {"type": "string", "format": "binary"}, "purpose": one("batch", "user_data")},
    {"expires_after[anchor]": one("created_at"), "expires_after[seconds]": whole(3600, 2_592_000)},
)

DATA: Mapping[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): Operation(
        tag="OpenAI", body=requests.CHAT, answer=answers.CHAT, streams=True
    ),
    ("POST", "/v1/completions"): Operation(
        tag="OpenAI", body=requests.COMPLETION, answer=answers.COMPLETION, streams=True
    ),
    ("POST", "/v1/embeddings"): Operation(
        tag="OpenAI", body=requests.EMBEDDING, answer=answers.EMBEDDINGS
    ),
    ("POST", "/v1/responses"): Operation(
        tag="OpenAI", body=requests.RESPONSE, answer=answers.RESPONSE, streams=True
    ),
    ("GET", "/v1/responses/{id}"): Operation(
        tag="OpenAI",
        answer=answers.RESPONSE,
        missing=True,
        query={**_INCLUDE, "stream": one("false"), "include_obfuscation": one("false")},
    ),
    ("DELETE", "/v1/responses/{id}"): Operation(
        tag="OpenAI", answer=answers.DELETED_RESPONSE, missing=True
    ),
    ("GET", "/v1/responses/{id}/input_items"): Operation(
        tag="OpenAI",
        answer=answers.INPUT_ITEMS,
        missing=True,
        query={
            **_INCLUDE,
            "after": text(0, 256),
            "limit": whole(1, 100),
            "order": _ORDER,
        },
    ),
    ("POST", "/v1/messages"): Operation(
        tag="Anthropic",
        body=requests.MESSAGE,
        answer=answers.MESSAGE,
        streams=True,
        error=answers.ANTHROPIC_ERROR,
    ),
    ("POST", "/v1/messages/count_tokens"): Operation(
        tag="Anthropic",
        body=requests.COUNT,
        answer=answers.TOKEN_COUNT,
        error=answers.ANTHROPIC_ERROR,
    ),
    ("POST", "/v1/batches"): Operation(
        tag="OpenAI", body=requests.BATCH, answer=answers.BATCH, missing=True
    ),
    ("GET", "/v1/batches"): Operation(
        tag="OpenAI",
        answer=answers.BATCHES,
        missing=True,
        query={"after": TEXT, "limit": whole(1, 100)},
    ),
    ("GET", "/v1/batches/{batch}"): Operation(tag="OpenAI", answer=answers.BATCH, missing=True),
    ("POST", "/v1/batches/{batch}/cancel"): Operation(
        tag="OpenAI", answer=answers.BATCH, missing=True, conflict="It has ended."
    ),
    ("POST", "/v1/files"): Operation(
        tag="OpenAI", body=_UPLOAD, form=True, answer=answers.FILE, missing=True
    ),
    ("GET", "/v1/files"): Operation(
        tag="OpenAI",
        answer=answers.FILES,
        missing=True,
        query={"after": TEXT, "limit": whole(1, 10_000), "order": _ORDER, "purpose": TEXT},
    ),
    ("GET", "/v1/files/{file}"): Operation(tag="OpenAI", answer=answers.FILE, missing=True),
    ("DELETE", "/v1/files/{file}"): Operation(
        tag="OpenAI", answer=answers.DELETED_FILE, missing=True, conflict="A batch reads it."
    ),
    ("GET", "/v1/files/{file}/content"): Operation(
        tag="OpenAI", answer=ANYTHING, kind="application/octet-stream", missing=True
    ),
    ("POST", "/v1/indexes"): Operation(
        tag="indexes",
        body=indexes.CREATE,
        answer=indexes.INDEX,
        missing=True,
        conflict="The name is taken.",
    ),
    ("GET", "/v1/indexes"): Operation(tag="indexes", answer=indexes.INDEXES, missing=True),
    ("GET", "/v1/indexes/{index}"): Operation(tag="indexes", answer=indexes.INDEX, missing=True),
    ("DELETE", "/v1/indexes/{index}"): Operation(
        tag="indexes", answer=indexes.DELETED_INDEX, missing=True
    ),
    ("POST", "/v1/indexes/{index}/documents"): Operation(
        tag="indexes",
        body=indexes.DOCUMENTS,
        answer=indexes.INGESTED,
        missing=True,
        conflict="A source has a document of that id.",
    ),
    ("GET", "/v1/indexes/{index}/documents"): Operation(
        tag="indexes",
        answer=indexes.PAGE,
        missing=True,
        query={"after": TEXT, "limit": whole(1, 1000)},
    ),
    ("GET", "/v1/indexes/{index}/documents/{document:path}"): Operation(
        tag="indexes", answer=indexes.DOCUMENT, missing=True
    ),
    ("DELETE", "/v1/indexes/{index}/documents/{document:path}"): Operation(
        tag="indexes",
        answer=indexes.DELETED_DOCUMENT,
        missing=True,
        conflict="A source has it: it would come again.",
    ),
    ("POST", "/v1/indexes/{index}/sync"): Operation(
        tag="indexes",
        body=indexes.SYNC,
        answer=indexes.SYNCED,
        missing=True,
        conflict="Another sync is at it.",
        bodiless=True,
    ),
    ("POST", "/v1/indexes/{index}/webhook"): Operation(
        tag="indexes",
        body=indexes.WEBHOOK,
        answer=indexes.DELIVERY,
        missing=True,
        headers={
            ID: text(1, MAX_ID, "^[!-~]+$"),
            TIMESTAMP: text(1, 12, "^[0-9]+$"),
            SIGNATURE: text(4, None, "^v1,[ -~]+$"),
        },
    ),
    ("POST", "/v1/indexes/{index}/search"): Operation(
        tag="indexes", body=indexes.SEARCH, answer=indexes.FOUND, missing=True
    ),
    ("POST", "/v1/indexes/{index}/answer"): Operation(
        tag="indexes", body=indexes.ANSWER, answer=indexes.ANSWERED, missing=True, streams=True
    ),
    ("GET", "/v1/models"): Operation(tag="OpenAI", answer=answers.MODELS),
    ("GET", "/v1/models/{model:path}"): Operation(tag="OpenAI", answer=answers.MODEL, missing=True),
    ("POST", "/tokenize"): Operation(tag="tokens", body=requests.TOKENIZE, answer=answers.TOKENS),
    ("POST", "/detokenize"): Operation(
        tag="tokens", body=requests.DETOKENIZE, answer=answers.DETOKENIZED
    ),
    ("POST", "/render"): Operation(tag="tokens", body=requests.RENDER, answer=answers.RENDERED),
    ("GET", "/v1/requests/{id}/explain"): Operation(
        tag="operation", answer=ANY_OBJECT, missing=True
    ),
    ("GET", "/metrics"): Operation(
        tag="operation", answer=TEXT, kind="text/plain; version=0.0.4; charset=utf-8"
    ),
}
