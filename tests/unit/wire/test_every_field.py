"""Every field that the official SDKs can send is honoured here, or refused by its name.

The fields are the SDKs' own: a new version that has a new field fails here until it is decided. A
field counts as honoured where the OpenAPI document has it, which schemathesis holds to be true.
"""

import json
import typing
from collections.abc import Iterator
from typing import Any

import anthropic.types as anthropic_types
import pytest
from anthropic.types import beta
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params

from headrace.errors import UnknownParameter, UnsupportedParameter, UserError
from headrace.gateway.openapi import requests
from headrace.wire import (
    anthropic_messages,
    openai_chat,
    openai_completions,
    openai_embeddings,
    responses_request,
)

HI = {"role": "user", "content": "hi"}
SURFACES: dict[str, tuple[tuple[Any, ...], dict[str, Any], Any, dict[str, Any]]] = {
    "chat": (
        (
            chat_params.CompletionCreateParamsNonStreaming,
            chat_params.CompletionCreateParamsStreaming,
        ),
        requests.CHAT,
        openai_chat.decode,
        {"model": "m", "messages": [HI]},
    ),
    "completions": (
        (
            completion_create_params.CompletionCreateParamsNonStreaming,
            completion_create_params.CompletionCreateParamsStreaming,
        ),
        requests.COMPLETION,
        openai_completions.decode,
        {"model": "m", "prompt": "x"},
    ),
    "embeddings": (
        (embedding_create_params.EmbeddingCreateParams,),
        requests.EMBEDDING,
        openai_embeddings.decode,
        {"model": "m", "input": "x"},
    ),
    "responses": (
        (
            response_create_params.ResponseCreateParamsNonStreaming,
            response_create_params.ResponseCreateParamsStreaming,
        ),
        requests.RESPONSE,
        responses_request.decode,
        {"model": "m", "input": "x"},
    ),
    "messages": (
        (
            anthropic_types.message_create_params.MessageCreateParamsNonStreaming,
            anthropic_types.message_create_params.MessageCreateParamsStreaming,
            beta.message_create_params.MessageCreateParamsNonStreaming,
        ),
        requests.MESSAGE,
        anthropic_messages.decode,
        {"model": "m", "max_tokens": 9, "messages": [HI]},
    ),
    "count_tokens": (
        (
            anthropic_types.message_count_tokens_params.MessageCountTokensParams,
            beta.message_count_tokens_params.MessageCountTokensParams,
        ),
        requests.COUNT,
        anthropic_messages.decode_count,
        {"model": "m", "messages": [HI]},
    ),
}
HEADERS = {"betas"}
"""What an SDK sends as a header, not in the body."""


def fields() -> Iterator[tuple[str, str]]:
    for surface, (params, *_) in SURFACES.items():
        names = {name for each in params for name in typing.get_type_hints(each)} - HEADERS
        assert len(names) > 4
        for name in sorted(names):
            yield surface, name


@pytest.mark.parametrize(("surface", "name"), [*fields()])
def test_it_is_honoured_or_refused_by_name(surface: str, name: str) -> None:
    _, shape, decode, body = SURFACES[surface]
    if name in shape["properties"]:
        decode(json.dumps({**body, name: body.get(name)}).encode())
        return
    for value in ("x", {"x": 1}, ["x"], 7, True):
        with pytest.raises(UserError) as caught:
            decode(json.dumps({**body, name: value}).encode())
        error = caught.value
        assert type(error) is UnsupportedParameter, f"{name} is in no table: {error.message}"
        assert error.param == name
        assert f"`{name}`" in error.message
        assert len(error.message.partition("is not supported; ")[2]) > 5, "says no way out"


@pytest.mark.parametrize("surface", SURFACES)
def test_what_nobody_knows_is_unknown(surface: str) -> None:
    _, _, decode, body = SURFACES[surface]
    with pytest.raises(UnknownParameter, match="`qwertz` is not a parameter"):
        decode(json.dumps({**body, "qwertz": 1}).encode())


@pytest.mark.parametrize("surface", SURFACES)
def test_a_value_without_effect_is_taken_and_another_is_refused_by_name(surface: str) -> None:
    _, shape, decode, body = SURFACES[surface]
    constants = {
        name: found["enum"]
        for name, found in shape["properties"].items()
        if "enum" in found and name not in ("reasoning_effort", "encoding_format")
    }
    assert constants or surface == "count_tokens"
    for name, values in constants.items():
        for value in values:
            decode(json.dumps({**body, name: value}).encode())
        for value in ("quite another", ["quite another"], 12345):
            with pytest.raises(UserError) as caught:
                decode(json.dumps({**body, name: value}).encode())
            assert caught.value.param == name
