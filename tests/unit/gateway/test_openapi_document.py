"""The OpenAPI document has every route, and nothing that is no route."""

from typing import Any

import jsonschema
import msgspec
import pytest

from headrace.errors import UserError
from headrace.gateway.admin.table import PREFIX
from headrace.gateway.admin.table import TABLE as ADMIN
from headrace.gateway.data import DATA
from headrace.gateway.openapi import control, indexes, operations, requests
from headrace.gateway.openapi.document import document
from headrace.wire import (
    anthropic_messages,
    batch_calls,
    index_calls,
    openai_chat,
    openai_completions,
    openai_embeddings,
    responses_request,
    token_calls,
)


def test_every_data_route_has_an_entry_and_every_entry_a_route() -> None:
    assert set(operations.DATA) == {(route.method, route.template) for route in DATA}
    bare = {
        template
        for (method, template), found in operations.DATA.items()
        if method in ("POST", "PUT", "PATCH") and found.body is None
    }
    assert all(template.endswith("/cancel") for template in bare), bare


def test_what_the_control_plane_is_said_to_take_are_its_routes() -> None:
    routes = {(route.method, route.path) for route in ADMIN}
    assert set(control.BODIES) <= routes
    assert set(control.QUERIES) <= routes
    bare = {(m, p) for m, p in routes if m in ("POST", "PATCH", "PUT")} - set(control.BODIES)
    assert not bare, "a body that the document does not have"


def test_each_path_and_method_once_with_what_it_does() -> None:
    made = document()
    found = [
        (method, path, operation)
        for path, methods in made["paths"].items()
        for method, operation in methods.items()
    ]
    ids = [operation["operationId"] for _, _, operation in found]
    assert len(set(ids)) == len(ids) == len(DATA) + len(ADMIN) + 4
    for method, path, operation in found:
        assert operation["summary"], (method, path)
        names = [each["name"] for each in operation.get("parameters", []) if each["in"] == "path"]
        assert all("{" + name + "}" in path for name in names)
        assert path.count("{") == len(names)
    assert all(not path.startswith(PREFIX) or path != PREFIX for path in made["paths"])


TEXT = {"role": "user", "content": "hi"}
MINIMAL: list[tuple[dict[str, Any], Any, dict[str, Any]]] = [
    (requests.CHAT, openai_chat.decode, {"model": "m", "messages": [TEXT]}),
    (requests.COMPLETION, openai_completions.decode, {"model": "m", "prompt": "x"}),
    (requests.RESPONSE, responses_request.decode, {"model": "m", "input": "x"}),
    (
        requests.MESSAGE,
        anthropic_messages.decode,
        {"model": "m", "max_tokens": 9, "messages": [TEXT]},
    ),
    (requests.COUNT, anthropic_messages.decode_count, {"model": "m", "messages": [TEXT]}),
    (requests.RENDER, openai_chat.decode_render, {"model": "m", "messages": [TEXT]}),
    (requests.TOKENIZE, token_calls.decode_tokenize, {"model": "m", "prompt": "x"}),
    (
        requests.BATCH,
        batch_calls.decode_batch,
        {"input_file_id": "f", "endpoint": "/v1/responses", "completion_window": "24h"},
    ),
    (requests.EMBEDDING, openai_embeddings.decode, {"model": "m", "input": "x"}),
    (indexes.CREATE, index_calls.decode_create, {"name": "n"}),
    (indexes.DOCUMENTS, index_calls.decode_documents, {"documents": [{"id": "a", "text": ""}]}),
    (indexes.SEARCH, index_calls.decode_search, {"query": "x"}),
    (indexes.ANSWER, index_calls.decode_ask, {"question": "x"}),
    (indexes.SYNC, index_calls.decode_sync, {}),
    (requests.DETOKENIZE, token_calls.decode_detokenize, {"model": "m", "tokens": [1]}),
]


@pytest.mark.parametrize(("shape", "decode", "body"), MINIMAL)
def test_the_document_and_the_decoder_know_the_same_fields(
    shape: dict[str, Any], decode: Any, body: dict[str, Any]
) -> None:
    jsonschema.validate(body, shape)
    decode(msgspec.json.encode(body))
    fits = jsonschema.Draft202012Validator
    [variant] = [each for each in shape.get("anyOf", [shape]) if fits(each).is_valid(body)]
    for field in variant["properties"]:
        # null is absent; but a field that the decoder does not know is an error even so
        decode(msgspec.json.encode({**body, field: body.get(field)}))
    with pytest.raises(UserError, match="is not a parameter"):
        decode(msgspec.json.encode({**body, "quite_unknown": None}))
