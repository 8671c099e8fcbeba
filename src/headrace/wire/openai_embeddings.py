"""POST /v1/embeddings in OpenAI's shape: bytes → `EmbeddingCall`; `Embedded` → the answer.

`input` is a text, token ids, or a list of either; ids are read exactly as they are. Beside OpenAI's
fields there are `input_type` (query, passage: the model's own prompt for it) and `truncate`; where
that was asked for the answer lists which inputs were cut in `truncated`. Base64 is little-endian
float32, as OpenAI's.
"""

import base64
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from headrace.errors import InvalidParameter
from headrace.types import Embedded, EmbedRequest
from headrace.wire.json_body import Fields, parse, shown, string_at
from headrace.wire.openai_chat import decode_deadline, decode_end_user
from headrace.wire.sampling import token_ids_at

MAX_INPUTS = 2048
"""OpenAI's limit."""

WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {"add_special_tokens": (True,), "priority": (0,)}
_UNSUPPORTED = {
    "truncate_prompt_tokens": "send `truncate` true, which cuts at the model's own limit",
    "messages": "send texts in `input`",
    "stream": "vectors come in one piece",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingCall:
    """A decoded request, and how to say the answer."""

    request: EmbedRequest
    as_base64: bool = False
    end_user: str = ""


def decode(body: bytes) -> EmbeddingCall:
    """Parse a request.

    Raises:
        UserError: Whatever is wrong with it; for any bytes there is nothing else to raise.
    """
    fields = parse(body)
    request = EmbedRequest(
        model=fields.required_string("model", max_chars=256),
        inputs=_inputs(fields),
        prompt=fields.string("input_type", max_chars=64) or "",
        dimensions=fields.integer("dimensions", low=1, high=1 << 20),
        truncate=fields.boolean("truncate"),
        deadline_s=decode_deadline(fields),
    )
    call = EmbeddingCall(
        request=request, as_base64=_base64(fields), end_user=decode_end_user(fields)
    )
    fields.close(without_effect=WITHOUT_EFFECT, unsupported=_UNSUPPORTED)
    return call


def encode(call: EmbeddingCall, model: str, answer: Embedded) -> bytes:
    """The whole answer."""
    body: dict[str, Any] = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": at, "embedding": vector}
            for at, vector in enumerate(_vectors(answer, as_base64=call.as_base64))
        ],
        "model": model,
        "usage": {
            "prompt_tokens": answer.usage.prompt_tokens,
            "total_tokens": answer.usage.total_tokens,
        },
    }
    if call.request.truncate:
        body["truncated"] = answer.truncated
    return msgspec.json.encode(body)


def _vectors(answer: Embedded, *, as_base64: bool) -> list[object]:
    rows = [answer.row(at) for at in range(answer.count)]
    if as_base64:
        return [base64.b64encode(row.cast("B")).decode() for row in rows]
    return [row.tolist() for row in rows]


def _inputs(fields: Fields) -> tuple[str | tuple[int, ...], ...]:
    value = fields.take("input")
    if value is None:
        raise InvalidParameter("`input` is missing; send a text or a list of texts", param="input")
    if isinstance(value, str):
        return (_text(value, "input"),)
    if not isinstance(value, list):
        raise InvalidParameter(
            f"`input` = {shown(value)} is neither a text, token ids nor a list of either",
            param="input",
        )
    items = cast("list[Any]", value)
    if not items:
        raise InvalidParameter("`input` is empty; send at least one text", param="input")
    if all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        return (token_ids_at(items, "input"),)
    if len(items) > MAX_INPUTS:
        raise InvalidParameter(
            f"`input` has {len(items)} entries, more than {MAX_INPUTS}; send several requests",
            param="input",
        )
    return tuple(_input(item, f"input[{at}]") for at, item in enumerate(items))


def _input(item: object, path: str) -> str | tuple[int, ...]:
    if isinstance(item, list):
        ids = token_ids_at(cast("list[Any]", item), path)
        if not ids:
            raise InvalidParameter(f"`{path}` is empty; send at least one token", param=path)
        return ids
    return _text(string_at(item, path), path)


def _text(text: str, path: str) -> str:
    if not text:
        raise InvalidParameter(f"`{path}` is an empty text, which has no meaning", param=path)
    return text


def _base64(fields: Fields) -> bool:
    kind = fields.string("encoding_format")
    if kind not in (None, "float", "base64"):
        raise InvalidParameter(
            f"`encoding_format` {shown(kind)} is neither float nor base64", param="encoding_format"
        )
    return kind == "base64"
