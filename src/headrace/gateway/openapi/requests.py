"""The bodies that the data plane takes: what each decoder in `wire` honours, with its limits.

Fields that are refused by name are not here, and nothing else is taken. Where a decoder asks more
than a schema can say (a tool's result must answer an earlier call), it answers 400.
"""

from headrace.gateway.openapi.shapes import (
    ANY_OBJECT,
    ANYTHING,
    BOOLEAN,
    TEXT,
    Shape,
    either,
    inert,
    number,
    one,
    record,
    some,
    text,
    whole,
)
from headrace.types import FormatKind, ToolChoice
from headrace.wire import (
    anthropic_messages,
    batch_calls,
    openai_chat,
    openai_completions,
    openai_embeddings,
    responses_request,
)
from headrace.wire.json_body import MAX_TOKEN_ID
from headrace.wire.openai_chat import EFFORTS, MAX_DEADLINE_S
from headrace.wire.openai_completions import MAX_PROMPTS
from headrace.wire.openai_embeddings import MAX_INPUTS
from headrace.wire.openai_messages import MAX_TOOLS
from headrace.wire.sampling import (
    MAX_CHOICES,
    MAX_STOP_CHARS,
    MAX_STOP_IDS,
    MAX_STOPS,
    MAX_TOKENS,
    MAX_TOP_LOGPROBS,
)

MODEL = text(1, 256)
_SOME_TEXT = text(1)
_TOOL_NAME = text(1, 64, r"^[a-zA-Z0-9_.-]{1,64}$")
_TOKEN = whole(0, MAX_TOKEN_ID)
_STOP = text(1, MAX_STOP_CHARS)
_USER = {"user": text(0, 256), "safety_identifier": text(0, 256)}
_DEADLINE = {"deadline_s": number(0, MAX_DEADLINE_S, above=True)}
_METADATA: Shape = {
    "type": "object",
    "maxProperties": 16,
    "propertyNames": {"maxLength": 64},
    "additionalProperties": text(0, 512),
}
_STREAM = {
    "stream": BOOLEAN,
    "stream_options": record(
        {},
        {
            "include_usage": BOOLEAN,
            "include_obfuscation": one(False),
            "continuous_usage_stats": one(False),
        },
    ),
}
_SAMPLING: dict[str, Shape] = {
    "temperature": number(0, 2),
    "top_p": number(0, 1, above=True),
    "top_k": whole(-1, MAX_TOKEN_ID),
    "min_p": number(0, 1),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "repetition_penalty": number(0, 10, above=True),
    "logit_bias": {
        "type": "object",
        "propertyNames": {"pattern": "^[0-9]{1,10}$"},
        "additionalProperties": number(-100, 100),
    },
    "seed": whole(-(2**63), 2**63 - 1),
    "n": whole(1, MAX_CHOICES),
    "min_tokens": whole(0, MAX_TOKENS),
    "stop": either(_STOP, some(_STOP, 0, MAX_STOPS)),
    "stop_token_ids": some(_TOKEN, 0, MAX_STOP_IDS),
    "ignore_eos": BOOLEAN,
    "include_stop_str_in_output": BOOLEAN,
    "prompt_logprobs": whole(0, MAX_TOP_LOGPROBS),
    "return_token_ids": BOOLEAN,
}


def _typed(kind: str, needed: dict[str, Shape], optional: dict[str, Shape] | None = None) -> Shape:
    return record({"type": one(kind), **needed}, optional)


def _text_part(kind: str) -> Shape:
    return _typed(kind, {"text": TEXT})


_CHAT_TEXT = either(TEXT, some(_text_part("text"), 1))
_IMAGE_URL = record({"url": _SOME_TEXT}, {"detail": one("auto")})
_USER_PART = either(
    _text_part("text"),
    _typed("image_url", {"image_url": _IMAGE_URL}),
    _typed(
        "input_audio",
        {"input_audio": record({"format": one("wav", "mp3"), "data": _SOME_TEXT})},
    ),
    _typed("file", {"file": record({"file_data": _SOME_TEXT}, {"filename": text(0, 1024)})}),
)
_NAME = {"name": text(0, 256)}
_CALLED = record({"name": text(1, 256)}, {"arguments": TEXT})
_TOOL_CALL = record(
    {"id": text(1, 256), "function": _CALLED},
    {"type": one("function"), "index": whole(0, MAX_TOOLS)},
)
_SAID_BEFORE = {"annotations": some(ANYTHING), "citations": some(ANYTHING)}
"""Of an answer that a client sends back."""
_MESSAGE = either(
    record({"role": one("system", "developer"), "content": _CHAT_TEXT}, _NAME),
    record({"role": one("user"), "content": either(TEXT, some(_USER_PART, 1))}, _NAME),
    record(
        {"role": one("assistant")},
        {
            "content": _CHAT_TEXT,
            "tool_calls": some(_TOOL_CALL),
            "reasoning_content": TEXT,
            "refusal": one(""),
            "audio": one(),
            "function_call": one(),
            **_SAID_BEFORE,
            **_NAME,
        },
    ),
    record(
        {"role": one("tool"), "content": _CHAT_TEXT, "tool_call_id": text(1, 256)}, {"name": TEXT}
    ),
)
_FUNCTION_OPTIONS = {"description": TEXT, "parameters": ANY_OBJECT, "strict": BOOLEAN}
_CHAT_TOOL = record(
    {"function": record({"name": _TOOL_NAME}, _FUNCTION_OPTIONS)}, {"type": one("function")}
)
_CHOICES = one(*(item.value for item in ToolChoice))
_PROMPT_SHAPING: dict[str, Shape] = {
    "tools": some(_CHAT_TOOL, 0, MAX_TOOLS),
    "tool_choice": either(_CHOICES, _typed("function", {"function": record({"name": _SOME_TEXT})})),
    "chat_template_kwargs": ANY_OBJECT,
    "add_generation_prompt": BOOLEAN,
    "continue_final_message": BOOLEAN,
}
_CHAT_SCHEMA = record(
    {"name": text(1, 64)}, {"description": TEXT, "strict": BOOLEAN, "schema": ANY_OBJECT}
)
CHAT = record(
    {"model": MODEL, "messages": some(_MESSAGE, 1)},
    {
        **_PROMPT_SHAPING,
        **_SAMPLING,
        **_STREAM,
        **_USER,
        **_DEADLINE,
        "max_tokens": whole(1, MAX_TOKENS),
        "max_completion_tokens": whole(1, MAX_TOKENS),
        "logprobs": BOOLEAN,
        "top_logprobs": whole(0, MAX_TOP_LOGPROBS),
        "parallel_tool_calls": BOOLEAN,
        "reasoning_effort": one(*EFFORTS),
        "response_format": either(
            _typed(FormatKind.TEXT.value, {}),
            _typed(FormatKind.JSON_OBJECT.value, {}),
            _typed(FormatKind.JSON_SCHEMA.value, {"json_schema": _CHAT_SCHEMA}),
        ),
        "prompt_cache_key": text(0, 1024),
        **inert(openai_chat.WITHOUT_EFFECT),
    },
)
RENDER = record({"model": MODEL, "messages": some(_MESSAGE, 1)}, _PROMPT_SHAPING)
COMPLETION = record(
    {
        "model": MODEL,
        "prompt": either(
            TEXT,
            some(_TOKEN, 1),
            some(TEXT, 1, MAX_PROMPTS),
            some(some(_TOKEN, 1), 1, MAX_PROMPTS),
        ),
    },
    {
        **_SAMPLING,
        **_STREAM,
        **_USER,
        **_DEADLINE,
        "max_tokens": whole(1, MAX_TOKENS),
        "logprobs": whole(0, MAX_TOP_LOGPROBS),
        "best_of": whole(1, MAX_TOKENS),
        "echo": BOOLEAN,
        "add_special_tokens": BOOLEAN,
        **inert(openai_completions.INERT),
    },
)

_ITEM_STATE = {"id": TEXT, "status": one("in_progress", "completed", "incomplete")}
_INPUT_TEXT = _text_part("input_text")
_INPUT_PART = either(
    _INPUT_TEXT,
    _typed("input_image", {"image_url": _SOME_TEXT}, {"detail": one("auto")}),
    _typed(
        "input_file",
        {},
        {"filename": text(0, 1024), "file_url": _SOME_TEXT, "file_data": _SOME_TEXT},
    ),
)
_SAID = either(
    _INPUT_TEXT,
    _typed("output_text", {"text": TEXT}, {**_SAID_BEFORE, "logprobs": one([])}),
)
_PHASE = {"phase": one("final_answer", "commentary")}
_ITEM = either(
    *(
        record(
            {"role": one(*roles), "content": either(TEXT, some(part, 1))},
            {"type": one("message"), **_PHASE, **_ITEM_STATE},
        )
        for roles, part in (
            (("user",), _INPUT_PART),
            (("assistant",), _SAID),
            (("system", "developer"), _INPUT_TEXT),
        )
    ),
    _typed(
        "function_call",
        {"call_id": text(1, 256), "name": text(1, 256)},
        {"arguments": TEXT, **_ITEM_STATE},
    ),
    _typed(
        "function_call_output",
        {"call_id": text(1, 256), "output": either(TEXT, some(_INPUT_TEXT))},
        _ITEM_STATE,
    ),
    _typed(
        "reasoning",
        {},
        {
            "summary": some(_text_part("summary_text")),
            "content": some(_text_part("reasoning_text")),
            "encrypted_content": TEXT,
            **_ITEM_STATE,
        },
    ),
    _typed("item_reference", {"id": text(1, 256)}),
)
RESPONSE = record(
    {"model": MODEL, "input": either(TEXT, some(_ITEM, 1))},
    {
        "instructions": TEXT,
        "tools": some(_typed("function", {"name": _TOOL_NAME}, _FUNCTION_OPTIONS), 0, MAX_TOOLS),
        "tool_choice": either(_CHOICES, _typed("function", {"name": _SOME_TEXT})),
        "parallel_tool_calls": BOOLEAN,
        "max_output_tokens": whole(1, MAX_TOKENS),
        "temperature": number(0, 2),
        "top_p": number(0, 1, above=True),
        "presence_penalty": number(-2, 2),
        "frequency_penalty": number(-2, 2),
        "stream": BOOLEAN,
        "stream_options": record({}, {"include_obfuscation": one(False)}),
        "store": BOOLEAN,
        "previous_response_id": text(0, 256),
        "text": record(
            {},
            {
                "verbosity": one("medium"),
                "format": either(
                    _typed(FormatKind.TEXT.value, {}),
                    _typed(FormatKind.JSON_OBJECT.value, {}),
                    _typed(
                        FormatKind.JSON_SCHEMA.value,
                        {"name": text(1, 64), "schema": ANY_OBJECT},
                        {"description": TEXT, "strict": BOOLEAN},
                    ),
                ),
            },
        ),
        "reasoning": record(
            {},
            {"effort": one(*EFFORTS), "summary": one("auto"), "generate_summary": one("auto")},
        ),
        "include": some(one(responses_request.ENCRYPTED)),
        "metadata": _METADATA,
        "prompt_cache_key": text(0, 1024),
        **_USER,
        **_DEADLINE,
        **inert(responses_request.WITHOUT_EFFECT),
    },
)

_CACHED = {
    "cache_control": record({"type": one("ephemeral")}, {"ttl": one("5m", "1h")}),
}
_OFF = {"citations": one({"enabled": False})}
_BLOCK_TEXT = _typed("text", {"text": TEXT}, {"citations": some(ANYTHING), **_CACHED})
_URL_SOURCE = _typed("url", {"url": _SOME_TEXT})
_IMAGE_SOURCE = _typed("base64", {"media_type": text(1, 256), "data": _SOME_TEXT})
_RESULT_TEXT = either(TEXT, some(_BLOCK_TEXT))
_USER_BLOCK = either(
    _BLOCK_TEXT,
    _typed("image", {"source": either(_URL_SOURCE, _IMAGE_SOURCE)}, {**_OFF, **_CACHED}),
    _typed(
        "document",
        {
            "source": either(
                _typed("url", {"url": _SOME_TEXT}, {"media_type": text(0, 256)}),
                _typed("base64", {"data": _SOME_TEXT}, {"media_type": text(0, 256)}),
                _typed("text", {"data": _SOME_TEXT}, {"media_type": text(0, 256)}),
            )
        },
        {"title": text(0, 1024), **_OFF, **_CACHED},
    ),
    _typed(
        "tool_result",
        {"tool_use_id": _SOME_TEXT},
        {"content": _RESULT_TEXT, "is_error": BOOLEAN, **_OFF, **_CACHED},
    ),
)
_MODEL_BLOCK = either(
    _BLOCK_TEXT,
    _typed("thinking", {"thinking": TEXT}, {"signature": TEXT, **_OFF, **_CACHED}),
    _typed("redacted_thinking", {"data": _SOME_TEXT}, {**_OFF, **_CACHED}),
    _typed(
        "tool_use",
        {"id": text(1, 256), "name": text(1, 256), "input": ANY_OBJECT},
        {**_OFF, **_CACHED},
    ),
)
_SYSTEM = some(_BLOCK_TEXT, 1)
_ANTHROPIC_MESSAGE = either(
    *(
        record({"role": one(role), "content": either(TEXT, some(block, 1))})
        for role, block in (
            ("user", _USER_BLOCK),
            ("assistant", _MODEL_BLOCK),
            ("system", _BLOCK_TEXT),
        )
    )
)
_ONE_CALL = {"disable_parallel_tool_use": BOOLEAN}
_ANTHROPIC_PROMPT: dict[str, Shape] = {
    **_CACHED,
    "system": either(TEXT, _SYSTEM),
    "tools": some(
        record(
            {"name": _TOOL_NAME, "input_schema": ANY_OBJECT},
            {
                "type": one("custom", ""),
                "description": TEXT,
                "strict": BOOLEAN,
                "defer_loading": one(False),
                "allowed_callers": one(["direct"]),
                **_CACHED,
            },
        ),
        0,
        MAX_TOOLS,
    ),
    "tool_choice": either(
        record({"type": one("auto", "any", "none")}, _ONE_CALL),
        record({"type": one("tool"), "name": _SOME_TEXT}, _ONE_CALL),
    ),
    "thinking": either(
        record({"type": one("disabled", "adaptive")}, {"display": one("summarized")}),
        record(
            {"type": one("enabled"), "budget_tokens": whole(1024, MAX_TOKENS)},
            {"display": one("summarized")},
        ),
    ),
    "output_config": record(
        {},
        {
            "effort": one(*EFFORTS),
            "format": _typed(FormatKind.JSON_SCHEMA.value, {"schema": ANY_OBJECT}),
        },
    ),
}
MESSAGE = record(
    {"model": MODEL, "messages": some(_ANTHROPIC_MESSAGE, 1), "max_tokens": whole(1, MAX_TOKENS)},
    {
        **_ANTHROPIC_PROMPT,
        "temperature": number(0, 1),
        "top_p": number(0, 1, above=True),
        "top_k": whole(0, MAX_TOKENS),
        "stop_sequences": some(_STOP, 0, MAX_STOPS),
        "stream": BOOLEAN,
        "metadata": record({}, {"user_id": text(0, 256)}, open=True),
        **inert(anthropic_messages.WITHOUT_EFFECT),
    },
)
COUNT = record(
    {"model": MODEL, "messages": some(_ANTHROPIC_MESSAGE, 1)},
    {**_ANTHROPIC_PROMPT, "speed": one("standard")},
)
TOKENIZE = either(
    record(
        {"model": MODEL, "prompt": TEXT},
        {"add_special_tokens": BOOLEAN, "return_token_strs": BOOLEAN},
    ),
    record(
        {"model": MODEL, "messages": some(_MESSAGE, 1)},
        {
            "prompt": one(),
            "add_special_tokens": one(False),
            "return_token_strs": BOOLEAN,
            **_PROMPT_SHAPING,
        },
    ),
)
DETOKENIZE = record({"model": MODEL, "tokens": some(_TOKEN)})
BATCH = record(
    {
        "input_file_id": text(1, 100),
        "endpoint": one(*batch_calls.ENDPOINTS),
        "completion_window": one(batch_calls.WINDOW),
    },
    {
        "metadata": _METADATA,
        "output_expires_after": record(
            {"anchor": one("created_at"), "seconds": whole(3600, 2_592_000)}
        ),
    },
)
_INPUT_IDS = some(_TOKEN, 1)
EMBEDDING = record(
    {
        "model": MODEL,
        "input": either(
            _SOME_TEXT, _INPUT_IDS, some(either(_SOME_TEXT, _INPUT_IDS), 1, MAX_INPUTS)
        ),
    },
    {
        "encoding_format": one("float", "base64"),
        "dimensions": whole(1, 1 << 20),
        "input_type": text(0, 64),
        "truncate": BOOLEAN,
        **_USER,
        **_DEADLINE,
        **inert(openai_embeddings.WITHOUT_EFFECT),
    },
)
