"""OpenAI's Batches: the request for one, a line of its input, a line of its output.

A line is `{"custom_id", "method": "POST", "url", "body"}`; the body is the bytes that a live
request to that endpoint would have, and its own decoder reads it when its turn comes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from headrace.errors import InvalidParameter, UnsupportedParameter
from headrace.wire.file_fields import take_ttl
from headrace.wire.json_body import Fields, parse

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_ELSEWHERE = ("/v1/moderations", "/v1/images/generations", "/v1/images/edits", "/v1/videos")
WINDOW, WINDOW_S = "24h", 24 * 3600
_MOST_METADATA, _KEY_CHARS, _VALUE_CHARS = 16, 64, 512
_CUSTOM_ID_CHARS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchCall:
    """A decoded POST /v1/batches."""

    input_file: str
    endpoint: str
    metadata: Mapping[str, str] | None
    output_ttl_s: int | None


def decode_batch(body: bytes) -> BatchCall:
    """Raises: UserError."""
    fields = parse(body)
    endpoint = fields.required_string("endpoint")
    if endpoint in _ELSEWHERE:
        raise UnsupportedParameter(
            f"`endpoint` {endpoint} is not served here; there is: {', '.join(ENDPOINTS)}",
            param="endpoint",
        )
    if endpoint not in ENDPOINTS:
        raise InvalidParameter(
            f"`endpoint` is {endpoint[:80]!r}; it is one of {', '.join(ENDPOINTS)}",
            param="endpoint",
        )
    window = fields.required_string("completion_window")
    if window != WINDOW:
        raise InvalidParameter(
            f"`completion_window` is {window[:40]!r}; it is {WINDOW}", param="completion_window"
        )
    call = BatchCall(
        input_file=fields.required_string("input_file_id", max_chars=100),
        endpoint=endpoint,
        metadata=_metadata(fields),
        output_ttl_s=take_ttl(fields, "output_expires_after"),
    )
    fields.close()
    return call


class LineFault(Exception):
    """Why a line is no request, as OpenAI's `errors.data` says it."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class BatchLine(NamedTuple):
    """A line's request."""

    custom_id: str
    model: str
    body: bytes


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct):
    model: str
    stream: bool | None = None
    background: bool | None = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_body = msgspec.json.Decoder(_Body).decode


def read_line(data: bytes, endpoint: str) -> BatchLine:
    """A line of an input file.

    Raises: LineFault.
    """
    try:
        line = _decode_line(data)
    except msgspec.ValidationError as error:
        raise LineFault("invalid_line", f"this is no request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"this line is not parseable as valid JSON: {error}"
        raise LineFault("invalid_json_line", message) from None
    if not 0 < len(line.custom_id) <= _CUSTOM_ID_CHARS:
        raise LineFault(
            "invalid_custom_id",
            f"`custom_id` has {len(line.custom_id)} characters, not 1 to {_CUSTOM_ID_CHARS}",
            "custom_id",
        )
    if line.method != "POST":
        raise LineFault("invalid_method", f"`method` is {line.method[:20]!r}, not POST", "method")
    if line.url != endpoint:
        raise LineFault(
            "mismatched_url",
            f"`url` is {line.url[:80]!r}; the batch is for {endpoint}",
            "url",
        )
    try:
        body = _decode_body(line.body)
    except msgspec.DecodeError as error:
        raise LineFault("invalid_request_body", f"`body`: {error}", "body") from None
    for name in ("stream", "background"):
        if getattr(body, name):
            raise LineFault(
                "invalid_request_body",
                f"`body.{name}` is true; an answer in a batch is a whole one",
                f"body.{name}",
            )
    return BatchLine(line.custom_id, body.model, bytes(line.body))


def encode_answer(id: str, custom_id: str, *, status: int, request_id: str, body: bytes) -> bytes:
    """The line of a request that was answered, well or with an error."""
    answer = {
        "id": id,
        "custom_id": custom_id,
        "response": {
            "status_code": status,
            "request_id": request_id,
            "body": msgspec.Raw(body),
        },
        "error": None,
    }
    return msgspec.json.encode(answer)


def encode_unanswered(id: str, custom_id: str, *, code: str, message: str) -> bytes:
    """The line of a request that never was asked."""
    error = {"code": code, "message": message}
    return msgspec.json.encode({"id": id, "custom_id": custom_id, "response": None, "error": error})


def _metadata(fields: Fields) -> Mapping[str, str] | None:
    found: dict[str, Any] | None = fields.mapping("metadata")
    if found is None:
        return None
    if len(found) > _MOST_METADATA:
        raise InvalidParameter(
            f"`metadata` has {len(found)} pairs; {_MOST_METADATA} are allowed", param="metadata"
        )
    for name, value in found.items():
        if len(name) > _KEY_CHARS:
            raise InvalidParameter(
                f"`metadata`: a key has {len(name)} characters; {_KEY_CHARS} are allowed",
                param="metadata",
            )
        if not isinstance(value, str) or len(value) > _VALUE_CHARS:
            raise InvalidParameter(
                f"`metadata.{name}` is {json.dumps(value)[:40]}; it takes a string of at most "
                f"{_VALUE_CHARS} characters",
                param=f"metadata.{name}",
            )
    return found
