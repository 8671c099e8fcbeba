"""A delivery says who sent it and when, or is refused with what it lacks."""

import base64
import json
from typing import Any

import pytest

from headrace.errors import InvalidParameter, PermissionDenied, UserError
from headrace.wire.webhooks import WINDOW_S, check, decode_delivery, decode_head, sign

SECRET = base64.b64decode("C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
NOW = 1_614_265_330


def test_the_specifications_example_holds() -> None:
    """Source: the test vector of Standard Webhooks' reference libraries."""
    body = b'{"test": 2432232314}'
    head = decode_head(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        str(NOW),
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    )
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    check(head, body, secret, source="s", now_s=NOW)


def head(body: bytes, *, sent_s: int = NOW, secret: bytes = SECRET, id: str = "d1") -> Any:
    made = base64.b64encode(sign(secret, id, sent_s, body)).decode()
    return decode_head(id, str(sent_s), f"v1a,asymmetric v1,{made}")


def test_who_has_not_the_secret_or_changes_or_replays_it_is_refused() -> None:
    body = b'{"source": "docs"}'
    good = head(body)
    check(good, body, SECRET, source="docs", now_s=NOW + WINDOW_S)
    check(good, body, SECRET, source="docs", now_s=NOW - WINDOW_S)
    for sent, said in ((head(body, secret=b"x" * 32), body), (good, body + b" ")):
        with pytest.raises(PermissionDenied, match=r"signature does not hold.*'docs'"):
            check(sent, said, SECRET, source="docs", now_s=NOW)
    with pytest.raises(PermissionDenied, match="signed 301 s ago, more than 300 s"):
        check(good, body, SECRET, source="docs", now_s=NOW + WINDOW_S + 1)
    with pytest.raises(PermissionDenied, match="301 s ahead of now"):
        check(good, body, SECRET, source="docs", now_s=NOW - WINDOW_S - 1)
    both = base64.b64encode(sign(SECRET, "d1", NOW, body)).decode()
    old = base64.b64encode(sign(b"o" * 32, "d1", NOW, body)).decode()
    rotated = decode_head("d1", str(NOW), f"v1,{old} v1,{both}")
    check(rotated, body, SECRET, source="docs", now_s=NOW)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, "1", "v1,aa=="), "webhook-id is missing"),
        (("a" * 257, "1", "v1,aa=="), "257 characters"),
        (("a b", "1", "v1,aa=="), "ASCII that can be seen"),
        (("é", "1", "v1,aa=="), "ASCII that can be seen"),
        (("a", None, "v1,aa=="), "webhook-timestamp is missing"),
        (("a", "2026-01-01", "v1,aa=="), "whole Unix seconds"),
        (("a", "٣", "v1,aa=="), "whole Unix seconds"),
        (("a", "1", None), "webhook-signature is missing"),
        (("a", "1", "sha256=00"), "0 signatures that begin with 'v1,'"),
        (("a", "1", "v1,!"), "no base64"),
        (("a", "1", " ".join(["v1,aa=="] * 11)), "11 signatures"),
    ],
)
def test_a_head_that_cannot_be_names_the_header(
    given: tuple[str | None, str | None, str | None], message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        decode_head(*given)


def test_a_body_names_items_of_a_source() -> None:
    events = [{"type": "added", "key": "a.md"}, {"type": "deleted", "key": "a.md"}]
    found = decode_delivery(json.dumps({"source": "docs", "events": events}).encode())
    assert (found.source, found.keys) == ("docs", ("a.md",))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "`source`"),
        ({"source": "docs"}, "`events` has 0 entries; it takes 1 to 1000"),
        ({"source": "docs", "events": [{"type": "moved", "key": "a"}]}, "events\\[0\\].type"),
        ({"source": "docs", "events": [{"type": "added"}]}, "events\\[0\\].key"),
        ({"source": "docs", "events": [{"type": "added", "key": ""}]}, "events\\[0\\].key"),
        ({"source": "docs", "events": [{"type": "added", "key": "a\0"}]}, "without NUL"),
        ({"source": "docs", "events": [{"type": "added", "key": "a", "x": 1}]}, "x"),
    ],
)
def test_a_body_that_cannot_be_names_the_field(body: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decode_delivery(json.dumps(body).encode())
