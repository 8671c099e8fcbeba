"""The stream's JSON chunks become events, with `Backend`'s invariants or an error.

Invariants: `Started` first; one `Finished` a choice; the last one is held back until the stream's
usage is known and carries it. A stream that ends early, repeats itself or speaks nonsense is an
`UpstreamError`: half an answer never looks like a whole one.
"""

import json
from collections.abc import Iterator
from typing import Any, cast

from headrace.errors import UpstreamError
from headrace.providers.openai_errors import from_error_object
from headrace.types import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenText,
    ToolCallDelta,
    Usage,
)

_REASONS = {reason.value: reason for reason in FinishReason} | {
    "function_call": FinishReason.TOOL_CALLS  # the name before tools
}
UNKNOWN_TOKEN = -1
"""Token id in a `TokenText` whose server sends texts only, as OpenAI does."""


class ChunkReader:
    """`push` the data of each event of the stream, then `end`."""

    def __init__(self, *, choices: int) -> None:
        self._choices = choices
        self._started = False
        self._finished: set[int] = set()
        self._held: Finished | None = None
        self._usage: Usage | None = None
        self.done = False
        """Whether `[DONE]` came."""

    def push(self, data: str) -> Iterator[Event]:
        """The events of one chunk.

        Raises: UpstreamError, or what the server's own error object says.
        """
        if self.done:
            raise UpstreamError("the server sent more after [DONE]")
        if data == "[DONE]":
            self.done = True
            return
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            raise UpstreamError(
                f"the server sent a chunk that is not JSON: {_short(data)}"
            ) from None
        if not isinstance(chunk, dict):
            raise UpstreamError(f"the server sent a chunk that is not an object: {_short(data)}")
        if chunk.get("error") is not None:
            raise from_error_object(chunk["error"], status=None)
        try:
            yield from self._events(cast("dict[str, Any]", chunk))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UpstreamError(
                f"the server sent a chunk with the wrong shape ({error!r}): {_short(data)}"
            ) from error

    def end(self) -> Finished:
        """The last event, once the connection has ended.

        Raises: UpstreamError where the answer is not whole.
        """
        if len(self._finished) < self._choices or self._held is None:
            raise UpstreamError(
                "the server's stream was cut off: "
                f"{len(self._finished)} of {self._choices} choices had ended"
            )
        if self._usage is None:
            raise UpstreamError(
                "the server sent no usage although stream_options.include_usage asked for it, so "
                "the tokens cannot be booked"
            )
        held = self._held
        return Finished(reason=held.reason, index=held.index, stop=held.stop, usage=self._usage)

    def _events(self, chunk: dict[str, Any]) -> Iterator[Event]:
        choices: list[dict[str, Any]] = chunk.get("choices") or []
        if not self._started:
            self._started = True
            yield _started(chunk, choices)
        if chunk.get("usage") is not None:
            self._usage = _usage(chunk["usage"])
        for choice in choices:
            index = int(choice.get("index", 0))
            if not 0 <= index < self._choices:
                raise UpstreamError(f"the server sent choice {index} of {self._choices}")
            if index in self._finished:
                raise UpstreamError(f"the server sent more of choice {index} after its end")
            yield from _deltas(choice, index)
            reason = choice.get("finish_reason")
            if reason is not None:
                if reason not in _REASONS:
                    raise UpstreamError(f"the server ended with finish_reason {_short(reason)}")
                self._finished.add(index)
                if self._held is not None:
                    yield self._held
                self._held = Finished(
                    reason=_REASONS[reason], index=index, stop=choice.get("stop_reason")
                )


def _started(chunk: dict[str, Any], choices: list[dict[str, Any]]) -> Started:
    ids: list[int] | None = chunk.get("prompt_token_ids")
    if ids is None and choices:
        ids = choices[0].get("prompt_token_ids")
    return Started(
        id=str(chunk.get("id", "")),
        model=str(chunk.get("model", "")),
        created_s=int(chunk.get("created", 0)),
        # OpenAI tells the count in the last chunk only: 0 here unless the ids come now.
        prompt_tokens=len(ids or ()),
        prompt_ids=tuple(ids or ()),
        system_fingerprint=str(chunk.get("system_fingerprint") or ""),
    )


def _deltas(choice: dict[str, Any], index: int) -> Iterator[Event]:
    ids = tuple(int(token) for token in choice.get("token_ids") or ())
    # A server sends an empty text for a token whose text it holds back (half a character): still a
    # chunk with a token, which whoever measures has to see.
    unfinished = choice.get("finish_reason") is None
    if "text" in choice:  # /completions
        logprobs = _legacy_logprobs(choice.get("logprobs"), ids)
        if choice["text"] or ids or logprobs or unfinished:
            yield TextDelta(text=choice["text"], index=index, token_ids=ids, logprobs=logprobs)
        return
    delta: dict[str, Any] = choice.get("delta") or {}
    logprobs = _logprobs(choice.get("logprobs"), ids)
    pieces: list[TextDelta | ReasoningDelta | ToolCallDelta] = []
    # Ids and log-probabilities come once a chunk: the first piece of the chunk carries them.
    reasoning = delta.get("reasoning_content") or delta.get("reasoning")
    if reasoning:
        pieces.append(ReasoningDelta(text=reasoning, index=index, token_ids=ids, logprobs=logprobs))
        ids, logprobs = (), ()
    calls: list[dict[str, Any]] = delta.get("tool_calls") or []
    content: str = delta.get("content") or delta.get("refusal") or ""
    held_back = unfinished and delta.get("content") == "" and "role" not in delta
    if content or ((ids or logprobs or held_back) and not calls):
        pieces.append(TextDelta(text=content, index=index, token_ids=ids, logprobs=logprobs))
        ids, logprobs = (), ()
    for number, call in enumerate(calls):
        function: dict[str, Any] = call.get("function") or {}
        pieces.append(
            ToolCallDelta(
                call=int(call.get("index", number)),
                id=call.get("id"),
                name=function.get("name"),
                arguments=function.get("arguments") or "",
                index=index,
                token_ids=ids,
                logprobs=logprobs,
            )
        )
        ids, logprobs = (), ()
    yield from pieces


def _logprobs(found: dict[str, Any] | None, ids: tuple[int, ...]) -> tuple[TokenText, ...]:
    entries: list[dict[str, Any]] = (found or {}).get("content") or []
    tokens = ids if len(ids) == len(entries) else (UNKNOWN_TOKEN,) * len(entries)
    return tuple(
        TokenText(
            token=token,
            data=_bytes(entry),
            logprob=float(entry["logprob"]),
            top=tuple(
                (UNKNOWN_TOKEN, _bytes(rival), float(rival["logprob"]))
                for rival in entry.get("top_logprobs") or ()
            ),
        )
        for token, entry in zip(tokens, entries, strict=True)
    )


def _legacy_logprobs(found: dict[str, Any] | None, ids: tuple[int, ...]) -> tuple[TokenText, ...]:
    if not found:
        return ()
    texts: list[str] = found["tokens"]
    values: list[float | None] = found["token_logprobs"]
    tops: list[dict[str, float] | None] = found.get("top_logprobs") or [None] * len(texts)
    tokens = ids if len(ids) == len(texts) else (UNKNOWN_TOKEN,) * len(texts)
    return tuple(
        TokenText(
            token=token,
            data=text.encode("utf-8", "replace"),
            # An echoed prompt's first token has no probability; 0 as `TokenBackend.score` has it.
            logprob=0.0 if value is None else float(value),
            top=tuple(
                (UNKNOWN_TOKEN, rival.encode("utf-8", "replace"), float(logprob))
                for rival, logprob in (top or {}).items()
            ),
        )
        for token, text, value, top in zip(tokens, texts, values, tops, strict=True)
    )


def _bytes(entry: dict[str, Any]) -> bytes:
    if entry.get("bytes") is not None:
        return bytes(entry["bytes"])
    return str(entry["token"]).encode("utf-8", "replace")


def _usage(found: dict[str, Any]) -> Usage:
    prompt: dict[str, Any] = found.get("prompt_tokens_details") or {}
    completion: dict[str, Any] = found.get("completion_tokens_details") or {}
    return Usage(
        prompt_tokens=int(found["prompt_tokens"]),
        cached_tokens=int(prompt.get("cached_tokens") or 0),
        cache_write_tokens=int(prompt.get("cache_write_tokens") or 0),
        completion_tokens=int(found.get("completion_tokens") or 0),
        reasoning_tokens=int(completion.get("reasoning_tokens") or 0),
    )


def _short(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 200 else text[:200] + "...")
