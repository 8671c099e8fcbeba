"""The bodies that the data plane answers with."""

from headrace.gateway.openapi.shapes import (
    ANY_OBJECT,
    ANYTHING,
    BOOLEAN,
    NUMBER,
    TEXT,
    WHOLE,
    Shape,
    either,
    nullable,
    one,
    record,
    some,
)
from headrace.types import CitationVerdict

COUNT: Shape = {"type": "integer", "minimum": 0}
_MAYBE_TEXT = nullable(TEXT)

ERROR = record(
    {
        "error": record(
            {
                "message": TEXT,
                "type": one("invalid_request_error", "rate_limit_error", "server_error"),
                "param": _MAYBE_TEXT,
                "code": TEXT,
            },
            {"limit": ANY_OBJECT, "request_id": TEXT},
        )
    }
)
ANTHROPIC_ERROR = record(
    {
        "type": one("error"),
        "error": record({"type": TEXT, "message": TEXT, "code": TEXT, "param": _MAYBE_TEXT}),
    },
    {"request_id": TEXT},
)
EVENT = record({"data": TEXT}, {"event": TEXT}, open=True)
"""Of a stream; `data` is JSON, or `[DONE]`."""
HEALTH = record({"status": one("ok", "unavailable")}, {"reason": TEXT, "detail": TEXT})

USAGE = record(
    {
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "prompt_tokens_details": record({"cached_tokens": COUNT, "cache_write_tokens": COUNT}),
        "completion_tokens_details": record({"reasoning_tokens": COUNT}),
    }
)
_FINISH = one("stop", "length", "tool_calls", "content_filter")
_LOGPROB = {"token": TEXT, "logprob": NUMBER, "bytes": some(WHOLE)}
_LOGPROBS = record(
    {
        "content": some(record({**_LOGPROB, "top_logprobs": some(record(_LOGPROB))})),
        "refusal": _MAYBE_TEXT,
    }
)
_CALL = record(
    {
        "id": TEXT,
        "type": one("function"),
        "function": record({"name": TEXT, "arguments": TEXT}),
    }
)
_PROMPT_LOGPROBS = some(nullable(ANY_OBJECT))
_TOP = {"id": TEXT, "created": COUNT, "model": TEXT, "system_fingerprint": _MAYBE_TEXT}
_SPAN = record({"start": COUNT, "end": COUNT})
CITATION = record(
    {
        "source": COUNT,
        "document": TEXT,
        "title": TEXT,
        "start": COUNT,
        "end": COUNT,
        "quote": TEXT,
        "support": NUMBER,
        "verdict": one(*(item.value for item in CitationVerdict)),
        "reason": TEXT,
        "claim": _SPAN,
        "mark": _SPAN,
    }
)
_CITED = {"citations": some(CITATION)}
_STOPPED = {"finish_reason": _FINISH, "stop_reason": either(TEXT, WHOLE, {"type": "null"})}
CHAT = record(
    {
        **_TOP,
        "object": one("chat.completion"),
        "choices": some(
            record(
                {
                    "index": COUNT,
                    "message": record(
                        {"role": one("assistant"), "content": _MAYBE_TEXT, "refusal": _MAYBE_TEXT},
                        {
                            "reasoning_content": TEXT,
                            "tool_calls": some(_CALL, 1),
                            "annotations": some(ANYTHING),
                            **_CITED,
                        },
                    ),
                    "logprobs": nullable(_LOGPROBS),
                    **_STOPPED,
                },
                {"token_ids": some(COUNT), "not_in_sources": one(True)},
            ),
            1,
        ),
        "usage": USAGE,
        "seed": nullable(WHOLE),
    },
    {"prompt_token_ids": some(COUNT), "prompt_logprobs": _PROMPT_LOGPROBS},
)
COMPLETION = record(
    {
        **_TOP,
        "object": one("text_completion"),
        "choices": some(
            record(
                {"index": COUNT, "text": TEXT, "logprobs": nullable(ANY_OBJECT), **_STOPPED},
                {
                    "token_ids": some(COUNT),
                    "prompt_token_ids": some(COUNT),
                    "prompt_logprobs": _PROMPT_LOGPROBS,
                },
            ),
            1,
        ),
        "usage": USAGE,
        "seed": nullable(WHOLE),
    }
)

_STATUS = one("in_progress", "completed", "incomplete")
_OUTPUT = either(
    record(
        {
            "type": one("message"),
            "id": TEXT,
            "status": _STATUS,
            "role": one("assistant"),
            "content": some(
                record(
                    {
                        "type": one("output_text"),
                        "text": TEXT,
                        "annotations": some(ANYTHING),
                        "logprobs": some(ANYTHING),
                    },
                    _CITED,
                )
            ),
        }
    ),
    record(
        {
            "type": one("function_call"),
            "id": TEXT,
            "status": _STATUS,
            "call_id": TEXT,
            "name": TEXT,
            "arguments": TEXT,
        }
    ),
    record(
        {
            "type": one("reasoning"),
            "id": TEXT,
            "status": _STATUS,
            "summary": some(ANYTHING),
            "content": some(record({"type": one("reasoning_text"), "text": TEXT})),
        },
        {"encrypted_content": TEXT},
    ),
)
_RESPONSE_USAGE = record(
    {
        "input_tokens": COUNT,
        "input_tokens_details": record({"cached_tokens": COUNT, "cache_write_tokens": COUNT}),
        "output_tokens": COUNT,
        "output_tokens_details": record({"reasoning_tokens": COUNT}),
        "total_tokens": COUNT,
    }
)
RESPONSE = record(
    {
        "id": TEXT,
        "object": one("response"),
        "created_at": COUNT,
        "status": one("completed", "incomplete", "failed"),
        "model": TEXT,
        "output": some(_OUTPUT),
        "store": BOOLEAN,
        "background": BOOLEAN,
        "parallel_tool_calls": BOOLEAN,
        "metadata": ANY_OBJECT,
        "temperature": NUMBER,
        "top_p": NUMBER,
        "presence_penalty": NUMBER,
        "frequency_penalty": NUMBER,
        "text": ANY_OBJECT,
        "tool_choice": either(one("auto", "none", "required"), ANY_OBJECT),
        "tools": some(ANY_OBJECT),
        "top_logprobs": COUNT,
        "truncation": one("disabled"),
        "service_tier": TEXT,
    },
    {
        "completed_at": COUNT,
        "error": record({"code": TEXT, "message": TEXT}),
        "incomplete_details": record({"reason": one("max_output_tokens", "content_filter")}),
        "instructions": TEXT,
        "max_output_tokens": COUNT,
        "max_tool_calls": COUNT,
        "previous_response_id": TEXT,
        "prompt_cache_key": TEXT,
        "reasoning": ANY_OBJECT,
        "safety_identifier": TEXT,
        "usage": _RESPONSE_USAGE,
        "user": TEXT,
        "not_in_sources": one(True),
    },
)
INPUT_ITEMS = record(
    {
        "object": one("list"),
        "data": some(record({"id": TEXT, "type": TEXT}, open=True)),
        "first_id": _MAYBE_TEXT,
        "last_id": _MAYBE_TEXT,
        "has_more": BOOLEAN,
    }
)
DELETED_RESPONSE = record({"id": TEXT, "object": one("response"), "deleted": one(True)})

MESSAGE = record(
    {
        "id": TEXT,
        "type": one("message"),
        "role": one("assistant"),
        "model": TEXT,
        "content": some(record({"type": TEXT}, open=True)),
        "stop_reason": one("end_turn", "stop_sequence", "max_tokens", "tool_use", "refusal"),
        "stop_sequence": _MAYBE_TEXT,
        "usage": record({"input_tokens": COUNT, "output_tokens": COUNT}, open=True),
    },
    open=True,
)
TOKEN_COUNT = record({"input_tokens": COUNT}, open=True)

MODEL = record(
    {
        "id": TEXT,
        "object": one("model"),
        "created": COUNT,
        "owned_by": TEXT,
        "max_model_len": nullable(COUNT),
        "system_fingerprint": _MAYBE_TEXT,
    }
)
MODELS = record({"object": one("list"), "data": some(MODEL)})
TOKENS = record(
    {
        "count": COUNT,
        "max_model_len": COUNT,
        "tokens": some(COUNT),
        "token_strs": nullable(some(TEXT)),
    }
)
DETOKENIZED = record({"prompt": TEXT})
RENDERED = record(
    {
        "token_ids": some(COUNT),
        "count": COUNT,
        "max_model_len": COUNT,
        "text": TEXT,
        "spans": some(ANY_OBJECT),
    }
)
FILE = record(
    {
        "id": TEXT,
        "object": one("file"),
        "bytes": COUNT,
        "created_at": COUNT,
        "expires_at": nullable(COUNT),
        "filename": TEXT,
        "purpose": TEXT,
        "status": TEXT,
    }
)
FILES = record({"object": one("list"), "data": some(FILE), "has_more": BOOLEAN}, open=True)
DELETED_FILE = record({"id": TEXT, "object": one("file"), "deleted": one(True)})
_AT = {
    f"{state}_at": nullable(COUNT)
    for state in (
        "in_progress",
        "expires",
        "finalizing",
        "completed",
        "failed",
        "expired",
        "cancelling",
        "cancelled",
    )
}
BATCH = record(
    {
        "id": TEXT,
        "object": one("batch"),
        "endpoint": TEXT,
        "model": _MAYBE_TEXT,
        "errors": nullable(ANY_OBJECT),
        "input_file_id": TEXT,
        "completion_window": TEXT,
        "status": TEXT,
        "output_file_id": _MAYBE_TEXT,
        "error_file_id": _MAYBE_TEXT,
        "created_at": COUNT,
        **_AT,
        "request_counts": record({"total": COUNT, "completed": COUNT, "failed": COUNT}),
        "usage": ANY_OBJECT,
        "metadata": nullable(ANY_OBJECT),
    }
)
BATCHES = record({"object": one("list"), "data": some(BATCH), "has_more": BOOLEAN}, open=True)
EMBEDDINGS = record(
    {
        "object": one("list"),
        "data": some(
            record(
                {
                    "object": one("embedding"),
                    "index": COUNT,
                    "embedding": either(some(NUMBER), TEXT),
                }
            )
        ),
        "model": TEXT,
        "usage": record({"prompt_tokens": COUNT, "total_tokens": COUNT}),
    },
    {"truncated": some(ANYTHING)},
)
