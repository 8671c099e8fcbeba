"""Whatever the bytes: a decoded call or a UserError that can be sent; chunks spell their events."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import UserError
from headrace.types import Finished, FinishReason, Started, TextDelta, Usage
from headrace.wire import openai_chat, openai_completions, token_calls
from headrace.wire.openai_answers import AnswerInfo
from headrace.wire.openai_errors import encode_error

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["user", "assistant", "tool", "text", "image_url", "function", "auto"])
)
KEYS = st.sampled_from(
    [
        "role",
        "content",
        "type",
        "text",
        "image_url",
        "url",
        "tool_calls",
        "id",
        "function",
        "name",
        "arguments",
        "messages",
    ]
) | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "model",
        "messages",
        "prompt",
        "tokens",
        "n",
        "stop",
        "seed",
        "stream",
        "stream_options",
        "tools",
        "tool_choice",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "max_tokens",
        "temperature",
        "top_k",
        "response_format",
        "metadata",
        "echo",
        "user",
        "stop_token_ids",
        "chat_template_kwargs",
        "deadline_s",
        "best_of",
        "suffix",
        "functions",
        "store",
    ]
)
BODIES = st.dictionaries(FIELDS, JSON, max_size=6) | st.dictionaries(FIELDS, JSON, max_size=4).map(
    lambda d: {"model": "m", "prompt": "x", "messages": [{"role": "user", "content": "x"}]} | d
)
DECODERS = (
    openai_chat.decode,
    openai_chat.decode_render,
    openai_completions.decode,
    token_calls.decode_tokenize,
    token_calls.decode_detokenize,
)


@settings(max_examples=300, deadline=None)
@given(body=BODIES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
def test_nothing_but_a_user_error(body: bytes) -> None:
    for decode in DECODERS:
        refused = _refusal(decode, body)
        if refused is not None:
            assert json.loads(encode_error(refused))["error"]["message"]
            assert len(refused.message) < 2000


def _refusal(decode: Callable[[bytes], object], body: bytes) -> UserError | None:
    try:
        decode(body)
    except UserError as error:
        return error
    return None


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.integers(0, 2), st.text(st.characters(codec="utf-8")))),
    include_usage=st.booleans(),
)
def test_chunks_spell_the_events(pieces: list[tuple[int, str]], *, include_usage: bool) -> None:
    encoder = openai_chat.ChunkEncoder(
        AnswerInfo(id="chatcmpl-1", model="m", include_usage=include_usage)
    )
    events: list[Any] = [Started(id="x", model="m", created_s=1, prompt_tokens=1)]
    events += [TextDelta(text=text, index=index) for index, text in pieces]
    usage = Usage(prompt_tokens=1, completion_tokens=2)
    events += [Finished(reason=FinishReason.STOP, index=i, usage=usage) for i in range(3)]
    sent = b"".join([*(encoder.push(event) for event in events), encoder.end()])
    frames = [part.removeprefix("data: ") for part in sent.decode().split("\n\n") if part]
    chunks = [json.loads(part) for part in frames]
    texts, roles, ended = [""] * 3, [0] * 3, [0] * 3
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        index, delta = choice["index"], choice["delta"]
        assert roles[index] or delta.get("role") == "assistant"  # the role comes first
        assert not ended[index]
        roles[index] += "role" in delta
        texts[index] += delta.get("content", "")
        ended[index] += choice["finish_reason"] == "stop"
    assert texts == ["".join(text for at, text in pieces if at == index) for index in range(3)]
    assert roles == ended == [1, 1, 1]
    assert [bool(chunk["choices"]) for chunk in chunks].count(False) == include_usage
    assert all(("usage" in chunk) is include_usage for chunk in chunks)
