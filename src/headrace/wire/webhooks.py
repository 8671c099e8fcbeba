"""Deliveries of webhooks, signed as Standard Webhooks has it → what they say, or why not.

    webhook-id         of the delivery; the same when it is sent again
    webhook-timestamp  Unix seconds, when it was sent
    webhook-signature  `v1,` and base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`; several by spaces

Source: https://github.com/standard-webhooks/standard-webhooks, the specification.
"""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from headrace.errors import InvalidParameter, PermissionDenied
from headrace.wire.index_calls import decode_key, decode_keys
from headrace.wire.json_body import Fields, object_at, one_of, parse

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
WINDOW_S = 300
"""A delivery is taken so long after it was sent, and by so much a clock may be ahead."""
MAX_ID = 256
_VERSION = "v1,"
_MOST_SIGNATURES = 10


class Change(StrEnum):
    """What is said of an item; what is done about it, the source decides."""

    ADDED = "added"
    CHANGED = "changed"
    DELETED = "deleted"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """The head of a delivery."""

    id: str
    sent_s: int
    signatures: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """Its body."""

    source: str
    keys: tuple[str, ...]
    """Items that may have changed."""


def decode_head(id: str | None, timestamp: str | None, signature: str | None) -> Sent:
    """The three headers. Raises: InvalidParameter naming the one that cannot be."""
    id = _needed(id, ID, "an id of the delivery, the same each time it is sent")
    if len(id) > MAX_ID or not all("!" <= character <= "~" for character in id):
        raise InvalidParameter(
            f"the header {ID} has {len(id)} characters; it takes up to {MAX_ID} of ASCII "
            "that can be seen",
            param=ID,
        )
    text = _needed(timestamp, TIMESTAMP, "when it is sent, in Unix seconds")
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise InvalidParameter(
            f"the header {TIMESTAMP} is {text[:40]!r}; it takes whole Unix seconds",
            param=TIMESTAMP,
        )
    said = _needed(signature, SIGNATURE, f"{_VERSION}BASE64 of HMAC-SHA256 over ID.TIMESTAMP.BODY")
    ours = [part for part in said.split() if part.startswith(_VERSION)]
    if not 0 < len(ours) <= _MOST_SIGNATURES:
        raise InvalidParameter(
            f"the header {SIGNATURE} has {len(ours)} signatures that begin with {_VERSION!r}; it "
            f"takes 1 to {_MOST_SIGNATURES}",
            param=SIGNATURE,
        )
    try:
        made = tuple(base64.b64decode(part[len(_VERSION) :], validate=True) for part in ours)
    except (binascii.Error, ValueError):
        raise InvalidParameter(
            f"the header {SIGNATURE}: what follows {_VERSION!r} is no base64", param=SIGNATURE
        ) from None
    return Sent(id=id, sent_s=int(text), signatures=made)


def decode_delivery(body: bytes) -> Delivery:
    """`{"source": S, "events": [{"type": "added|changed|deleted", "key": K}]}`.

    Raises: UserError.
    """
    fields = parse(body)
    source = fields.required_string("source", max_chars=256)
    events = fields.array("events") or []
    fields.close()
    items = [_key(object_at(item, f"events[{at}]")) for at, item in enumerate(events)]
    return Delivery(source=source, keys=decode_keys(items, "events"))


def check(sent: Sent, body: bytes, secret: bytes, *, source: str, now_s: float) -> None:
    """Whether it is signed by who has the secret, and just now.

    Raises: PermissionDenied saying which is not so.
    """
    wanted = sign(secret, sent.id, sent.sent_s, body)
    if not any([hmac.compare_digest(wanted, one) for one in sent.signatures]):  # noqa: C419 - all
        raise PermissionDenied(
            f"the signature does not hold: it is not that of {ID}.{TIMESTAMP}.body with the secret "
            f"of source {source!r}; sign the bytes as they are sent",
            param=SIGNATURE,
        )
    away_s = now_s - sent.sent_s
    if abs(away_s) > WINDOW_S:
        raise PermissionDenied(
            f"it was signed {abs(away_s):.0f} s {'ago' if away_s > 0 else 'ahead of now'}, more "
            f"than {WINDOW_S} s; sign it anew when it is sent again, and keep clocks together",
            param=TIMESTAMP,
        )


def sign(secret: bytes, id: str, sent_s: int, body: bytes) -> bytes:
    """What `webhook-signature` has, before base64."""
    return hmac.new(secret, f"{id}.{sent_s}.".encode() + body, hashlib.sha256).digest()


def encode_taken(id: str, index: str, delivery: Delivery, state: str) -> bytes:
    """The answer."""
    said: dict[str, Any] = {
        "object": "index.delivery",
        "id": id,
        "index": index,
        "source": delivery.source,
        "status": state,
        "items": len(delivery.keys),
    }
    return msgspec.json.encode(said)


def _key(event: Fields) -> str:
    path = event.at("type")
    one_of(event.required_string("type", max_chars=32), path, [item.value for item in Change])
    key = decode_key(event.take("key"), event.at("key"))
    event.close()
    return key


def _needed(value: str | None, name: str, what: str) -> str:
    if not value:
        raise InvalidParameter(f"the header {name} is missing; it has {what}", param=name)
    return value
