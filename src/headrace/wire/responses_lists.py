"""GET and DELETE below /v1/responses: queries in, answers out.

Source: OpenAI's API reference, Responses: get, delete, list input items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from headrace.errors import NotFound, UnsupportedParameter
from headrace.wire.json_body import shown
from headrace.wire.query import Query
from headrace.wire.responses_request import ENCRYPTED

_MOST_ITEMS = 100
_PAGE = 20
_IMAGE_URL = "message.input_image.image_url"


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Which input items to list."""

    after: str | None
    limit: int
    newest_first: bool
    encrypted: bool


def decode_get(query: bytes) -> bool:
    """The query of GET /v1/responses/{id}. Returns: Whether thoughts come with their signatures.

    Raises: UserError.
    """
    fields = Query(query)
    encrypted = _include(fields)
    fields.close(
        without_effect={"stream": ("false",), "include_obfuscation": ("false",)},
        unsupported={
            "stream": "events are not kept, the answer is whole",
            "starting_after": "events are not kept, the answer is whole",
        },
    )
    return encrypted


def decode_none(query: bytes) -> None:
    """The query of a route that takes none. Raises: UserError for any."""
    Query(query).close()


def decode_page(query: bytes) -> Page:
    """The query of GET /v1/responses/{id}/input_items. Raises: UserError."""
    fields = Query(query)
    page = Page(
        after=fields.string("after"),
        limit=fields.integer("limit", low=1, high=_MOST_ITEMS, default=_PAGE),
        newest_first=fields.choice("order", ("asc", "desc"), default="desc") == "desc",
        encrypted=_include(fields),
    )
    fields.close()
    return page


def encode_items(items: Sequence[dict[str, Any]], page: Page) -> bytes:
    """One page of a response's input items.

    Raises: NotFound where `after` is none of them.
    """
    ordered = list(reversed(items)) if page.newest_first else list(items)
    if page.after is not None:
        at = next((n for n, item in enumerate(ordered) if item["id"] == page.after), None)
        if at is None:
            raise NotFound(f"`after`: there is no item {shown(page.after)} here", param="after")
        ordered = ordered[at + 1 :]
    data = ordered[: page.limit]
    if not page.encrypted:
        data = [{k: v for k, v in item.items() if k != "encrypted_content"} for item in data]
    return msgspec.json.encode(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": len(ordered) > page.limit,
        }
    )


def encode_deleted(id: str) -> bytes:
    """The answer of DELETE /v1/responses/{id}."""
    return msgspec.json.encode({"id": id, "object": "response", "deleted": True})


def _include(fields: Query) -> bool:
    found = fields.many("include")
    for item in found:
        if item not in (ENCRYPTED, _IMAGE_URL):  # images are always shown as they came
            raise UnsupportedParameter(
                f"`include` {shown(item)} is not supported; there is: {ENCRYPTED}, {_IMAGE_URL}",
                param="include",
            )
    return ENCRYPTED in found
