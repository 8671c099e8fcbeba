"""POST /tokenize and /detokenize in vLLM's shapes, and GET /v1/models in OpenAI's.

/tokenize takes `prompt` (text) or `messages` (rendered as a chat request would be), with
`add_special_tokens` (true for text; a template brings its own) and `return_token_strs`; /detokenize
takes `tokens`. Source: vLLM's OpenAI-compatible server.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from headrace.errors import InvalidParameter
from headrace.types import ChatRequest, ModelCard
from headrace.wire.json_body import parse
from headrace.wire.openai_chat import render_fields
from headrace.wire.sampling import token_ids_at


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeCall:
    model: str
    content: str | ChatRequest
    """Text, or a conversation."""
    add_special: bool = True
    return_texts: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DetokenizeCall:
    model: str
    tokens: tuple[int, ...]


def decode_tokenize(body: bytes) -> TokenizeCall:
    """Parse the body of POST /tokenize.

    Raises:
        UserError: Whatever is wrong with it.
    """
    fields = parse(body)
    model = fields.required_string("model", max_chars=256)
    texts = fields.boolean("return_token_strs")
    prompt = fields.string("prompt")
    if prompt is None:
        if fields.take("messages") is None:
            raise InvalidParameter("send `prompt` or `messages`", param="prompt")
        request = render_fields(fields, model=model)
        fields.close(without_effect={"add_special_tokens": (False,)})
        return TokenizeCall(model=model, content=request, add_special=False, return_texts=texts)
    call = TokenizeCall(
        model=model,
        content=prompt,
        add_special=fields.boolean("add_special_tokens", default=True),
        return_texts=texts,
    )
    fields.close()
    return call


def decode_detokenize(body: bytes) -> DetokenizeCall:
    """Parse the body of POST /detokenize.

    Raises:
        UserError: Whatever is wrong with it.
    """
    fields = parse(body)
    model = fields.required_string("model", max_chars=256)
    value = fields.take("tokens")
    if value is None:
        raise InvalidParameter("`tokens` is missing; send a list of token ids", param="tokens")
    tokens = token_ids_at(value, "tokens")
    fields.close()
    return DetokenizeCall(model=model, tokens=tokens)


def encode_tokenize(
    tokens: Sequence[int], *, context_tokens: int, texts: Sequence[str] | None
) -> bytes:
    """The answer of POST /tokenize."""
    return msgspec.json.encode(
        {
            "count": len(tokens),
            "max_model_len": context_tokens,
            "tokens": list(tokens),
            "token_strs": None if texts is None else list(texts),
        }
    )


def encode_detokenize(text: str) -> bytes:
    """The answer of POST /detokenize."""
    return msgspec.json.encode({"prompt": text})


def encode_model(card: ModelCard) -> bytes:
    """The answer of GET /v1/models/{id}."""
    return msgspec.json.encode(_model(card))


def encode_models(cards: Iterable[ModelCard]) -> bytes:
    """The answer of GET /v1/models."""
    return msgspec.json.encode({"object": "list", "data": [_model(card) for card in cards]})


def _model(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.name,
        "object": "model",
        "created": card.created_s,
        "owned_by": "headrace",
        "max_model_len": card.context_tokens or None,  # 0: nobody said
        "system_fingerprint": card.fingerprint or None,
    }
