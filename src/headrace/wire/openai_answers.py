"""What both OpenAI routes say alike: usage, finish reasons, log-probabilities, ids.

| finish reason | sent as |
|---|---|
| stop, length, tool_calls, content_filter | the same; `stop_reason` has the stop string or id |
| deadline, abort, error | length, the protocol's word for "cut short"; `stop_reason` says which |

A log-probability of minus infinity is sent as -9999, as OpenAI and vLLM do: JSON has no infinity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace.types import FinishReason, Started, TokenText, Usage

LOWEST_LOGPROB = -9999.0
_CUT_SHORT = (FinishReason.DEADLINE, FinishReason.ABORT, FinishReason.ERROR)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerInfo:
    """What every chunk and every whole answer begins with."""

    id: str
    model: str
    include_usage: bool = False
    return_token_ids: bool = False
    logprobs: bool = False


def head(info: AnswerInfo, started: Started, kind: str) -> dict[str, Any]:
    """Fields at the top of a chunk or answer."""
    return {
        "id": info.id,
        "object": kind,
        "created": started.created_s,
        "model": info.model,
        "system_fingerprint": started.system_fingerprint or None,
    }


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage, with its two breakdowns."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def add_usage(first: Usage, second: Usage) -> Usage:
    """Sums, for a request with several prompts."""
    return Usage(
        prompt_tokens=first.prompt_tokens + second.prompt_tokens,
        cached_tokens=first.cached_tokens + second.cached_tokens,
        cache_write_tokens=first.cache_write_tokens + second.cache_write_tokens,
        completion_tokens=first.completion_tokens + second.completion_tokens,
        reasoning_tokens=first.reasoning_tokens + second.reasoning_tokens,
        drafted_tokens=first.drafted_tokens + second.drafted_tokens,
        rejected_tokens=first.rejected_tokens + second.rejected_tokens,
        recomputed_tokens=first.recomputed_tokens + second.recomputed_tokens,
    )


def finish_fields(reason: FinishReason, stop: str | int | None) -> dict[str, Any]:
    """`finish_reason` and vLLM's `stop_reason`."""
    if reason in _CUT_SHORT:
        return {"finish_reason": "length", "stop_reason": reason.value}
    return {"finish_reason": reason.value, "stop_reason": stop}


def chat_logprobs(tokens: Sequence[TokenText]) -> dict[str, Any]:
    """Chat's shape: one entry a token."""
    return {
        "content": [
            {
                **_entry(item.data, item.logprob),
                "top_logprobs": [_entry(data, logprob) for _, data, logprob in item.top],
            }
            for item in tokens
        ],
        "refusal": None,
    }


def legacy_logprobs(
    tokens: Sequence[TokenText], *, offset: int, unscored: str | None = None
) -> dict[str, Any]:
    """The older shape of /completions: parallel lists.

    Args:
        tokens: In order.
        offset: Characters of the choice's text before these tokens.
        unscored: Text of an echoed prompt's first token, which has no probability.
    """
    texts = [*([] if unscored is None else [unscored]), *(decoded(item.data) for item in tokens)]
    nothing: list[None] = [] if unscored is None else [None]
    offsets: list[int] = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [*nothing, *(finite(item.logprob) for item in tokens)],
        "top_logprobs": [
            *nothing,
            *({decoded(data): finite(value) for _, data, value in item.top} for item in tokens),
        ],
        "text_offset": offsets,
    }


def prompt_logprobs(found: Sequence[TokenText | None]) -> list[dict[str, Any] | None]:
    """vLLM's shape: an object from token id to its log-probability, rank and text."""
    return [None if item is None else _ranked(item) for item in found]


def decoded(data: bytes) -> str:
    """Bytes of one token as text; a part of a character becomes U+FFFD."""
    return data.decode("utf-8", "replace")


def finite(logprob: float) -> float:
    """A log-probability that JSON can carry."""
    return max(logprob, LOWEST_LOGPROB)


def _entry(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": decoded(data), "logprob": finite(logprob), "bytes": list(data)}


def _ranked(item: TokenText) -> dict[str, Any]:
    ranked = {
        str(token): {"logprob": finite(value), "rank": rank, "decoded_token": decoded(data)}
        for rank, (token, data, value) in enumerate(item.top, start=1)
    }
    own = {"logprob": finite(item.logprob), "rank": None, "decoded_token": decoded(item.data)}
    return {str(item.token): ranked.pop(str(item.token), own), **ranked}
