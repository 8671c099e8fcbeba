"""What OpenAI's Files and Batches say in fields: purposes, expiries, pages; and their lists."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from headrace.errors import InvalidParameter, UnknownParameter, UnsupportedParameter
from headrace.wire.json_body import Fields

UPLOADS = ("batch", "user_data")
"""Purposes that a client may give."""
BATCH_OUTPUT = "batch_output"
_ELSEWHERE = ("assistants", "evals", "fine-tune", "vision")
_SHORTEST_S, _LONGEST_S = 3600, 2_592_000
BATCH_TTL_S = _LONGEST_S
"""Of an input of batches whose client says nothing else, as OpenAI has it."""


class Upload(NamedTuple):
    """A decoded form, without its file."""

    purpose: str
    ttl_s: int | None
    """How long the file is kept; None = until it is deleted."""


def decode_upload(fields: Mapping[str, str]) -> Upload:
    """The plain fields of POST /v1/files.

    Raises: InvalidParameter, UnknownParameter, UnsupportedParameter.
    """
    known = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
    for name in fields:
        if name not in known:
            raise UnknownParameter(
                f"`{name[:80]}` is not a field of an upload; it takes file, {', '.join(known)}",
                param=name[:80],
            )
    purpose = _purpose(fields.get("purpose"))
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return Upload(purpose, BATCH_TTL_S if purpose == "batch" else None)
    if anchor != "created_at":
        raise _anchor(anchor)
    if seconds is None or not (seconds.isascii() and seconds.isdigit() and len(seconds) < 12):
        raise InvalidParameter(
            f"`expires_after[seconds]` is {(seconds or '')[:40]!r}; send a number of seconds",
            param="expires_after[seconds]",
        )
    return Upload(purpose, _ttl(int(seconds), "expires_after[seconds]"))


def take_ttl(fields: Fields, name: str) -> int | None:
    """An expiry in a JSON body: `{"anchor": "created_at", "seconds": N}`."""
    policy = fields.nested(name)
    if policy is None:
        return None
    anchor = policy.string("anchor")
    if anchor != "created_at":
        raise _anchor(anchor)
    seconds = policy.integer("seconds", low=_SHORTEST_S, high=_LONGEST_S)
    policy.close()
    if seconds is None:
        raise InvalidParameter(f"`{name}.seconds` is missing", param=f"{name}.seconds")
    return seconds


def _purpose(value: str | None) -> str:
    if value is None:
        raise InvalidParameter(
            f"`purpose` is missing; it is one of {', '.join(UPLOADS)}", param="purpose"
        )
    if value in _ELSEWHERE:
        raise UnsupportedParameter(
            f"`purpose` {value!r}: nothing here reads such files; store the file as user_data",
            param="purpose",
        )
    if value not in UPLOADS:
        raise InvalidParameter(
            f"`purpose` is {value[:40]!r}; it is one of {', '.join(UPLOADS)}", param="purpose"
        )
    return value


def _anchor(value: str | None) -> InvalidParameter:
    return InvalidParameter(
        f"`expires_after` counts from {(value or '')[:40]!r}; the anchor is created_at",
        param="expires_after",
    )


def _ttl(seconds: int, param: str) -> int:
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise InvalidParameter(
            f"`{param}` {seconds} is not within {_SHORTEST_S} to {_LONGEST_S}", param=param
        )
    return seconds


def encode_list(items: Sequence[Mapping[str, Any]], *, has_more: bool) -> bytes:
    """A page of objects with ids."""
    return msgspec.json.encode(
        {
            "object": "list",
            "data": items,
            "first_id": items[0]["id"] if items else None,
            "last_id": items[-1]["id"] if items else None,
            "has_more": has_more,
        }
    )
