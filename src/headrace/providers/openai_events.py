"""The stream's JSON chunks become events, with `Backend`'s invariants or an error.

Invariants: `Started` first; one `Finished` a choice; the last one is held back until the stream's
usage is known and carries it. A stream that ends early, repeats itself or speaks nonsense is an
`UpstreamError`: half an answer never looks like a whole one.
"""

from collections.abc import Iterator
from typing import Any, cast

from headrace.errors import UpstreamError
from headrace.providers import shapes
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
        self.heard_all = False

    @property
    def heard(self) -> Usage | None:
        """The last usage; a server asked for a running count says it in every chunk."""
        return self._usage

    def push(self, data: str) -> Iterator[Event]:
        """The events of one chunk.

        Raises: UpstreamError, or what the server's own error object says.
        """
        if self.done:
            raise UpstreamError("the server sent more after [DONE]")
        if data == "[DONE]":
            self.done = True
            return
        chunk = shapes.parse(data)
        if chunk.get("error") is not None:
            raise from_error_object(chunk["error"], status=None)
        with shapes.shaped(data):
            yield from self.read(chunk)

    def end(self) -> Iterator[Event]:
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
                "the server sent no usage (of a stream, stream_options asks for it), so the "
                "tokens cannot be booked"
            )
        held = self._held
        yield Finished(reason=held.reason, index=held.index, stop=held.stop, usage=self._usage)

    def read(self, chunk: dict[str, Any]) -> Iterator[Event]:
        """The events of one chunk's object."""
        choices = shapes.objects(chunk.get("choices"))
        if not self._started:
            self._started = True
            yield _started(chunk, choices)
        self.heard_all = chunk.get("usage") is not None
        if self.heard_all:
            self._usage = _usage(shapes.mapping(chunk["usage"]))
        for choice in choices:
            index = shapes.count(choice.get("index"))
            if not 0 <= index < self._choices:
                raise UpstreamError(f"the server sent choice {index} of {self._choices}")
            if index in self._finished:
                raise UpstreamError(f"the server sent more of choice {index} after its end")
            yield from _deltas(choice, index)
            reason = shapes.optional_text(choice.get("finish_reason"))
            if reason is not None:
                if reason not in _REASONS:
                    raise UpstreamError(
                        f"the server ended with finish_reason {shapes.short(reason)}"
                    )
                self._finished.add(index)
                if self._held is not None:
                    yield self._held
                stop = _stop(choice.get("stop_reason"))
                self._held = Finished(reason=_REASONS[reason], index=index, stop=stop)


def _started(chunk: dict[str, Any], choices: list[dict[str, Any]]) -> Started:
    found = chunk.get("prompt_token_ids")
    if found is None and choices:
        found = choices[0].get("prompt_token_ids")
    ids = _ids(found)
    return Started(
        id=shapes.text(chunk.get("id")),
        model=shapes.text(chunk.get("model")),
        created_s=shapes.count(chunk.get("created")),
        # OpenAI tells the count in the last chunk only: 0 here unless the ids come now.
        prompt_tokens=len(ids),
        prompt_ids=ids,
        system_fingerprint=shapes.text(chunk.get("system_fingerprint")),
    )


def _ids(found: object) -> tuple[int, ...]:
    if found is None:
        return ()
    if not isinstance(found, list):
        raise TypeError(f"{shapes.short(found)} is not a list of token ids")
    return tuple(shapes.count(token) for token in cast("list[object]", found))


def _stop(found: object) -> str | int | None:
    if found is None or (isinstance(found, int) and not isinstance(found, bool)):
        return found
    return shapes.text(found)


def _deltas(choice: dict[str, Any], index: int) -> Iterator[Event]:
    ids = _ids(choice.get("token_ids"))
    # A server sends an empty text for a token whose text it holds back (half a character): still a
    # chunk with a token, which whoever measures has to see.
    unfinished = choice.get("finish_reason") is None
    if "text" in choice:  # /completions
        logprobs = _legacy_logprobs(choice.get("logprobs"), ids)
        text = shapes.text(choice["text"])
        if text or ids or logprobs or unfinished:
            yield TextDelta(text=text, index=index, token_ids=ids, logprobs=logprobs)
        return
    delta = shapes.mapping(choice.get("delta"))
    logprobs = _logprobs(choice.get("logprobs"), ids)
    pieces: list[TextDelta | ReasoningDelta | ToolCallDelta] = []
    # Ids and log-probabilities come once a chunk: the first piece of the chunk carries them.
    reasoning = shapes.text(delta.get("reasoning_content") or delta.get("reasoning"))
    if reasoning:
        pieces.append(ReasoningDelta(text=reasoning, index=index, token_ids=ids, logprobs=logprobs))
        ids, logprobs = (), ()
    calls = shapes.objects(delta.get("tool_calls"))
    content = shapes.text(delta.get("content")) or shapes.text(delta.get("refusal"))
    held_back = unfinished and delta.get("content") == "" and "role" not in delta
    if content or ((ids or logprobs or held_back) and not calls):
        pieces.append(TextDelta(text=content, index=index, token_ids=ids, logprobs=logprobs))
        ids, logprobs = (), ()
    for number, call in enumerate(calls):
        function = shapes.mapping(call.get("function"))
        pieces.append(
            ToolCallDelta(
                call=number if call.get("index") is None else shapes.count(call["index"]),
                id=shapes.optional_text(call.get("id")),
                name=shapes.optional_text(function.get("name")),
                arguments=shapes.text(function.get("arguments")),
                index=index,
                token_ids=ids,
                logprobs=logprobs,
            )
        )
        ids, logprobs = (), ()
    yield from pieces


def _logprobs(found: object, ids: tuple[int, ...]) -> tuple[TokenText, ...]:
    entries = shapes.objects(shapes.mapping(found).get("content"))
    tokens = ids if len(ids) == len(entries) else (UNKNOWN_TOKEN,) * len(entries)
    return tuple(
        TokenText(
            token=token,
            data=_bytes(entry),
            logprob=shapes.logprob(entry["logprob"]),
            top=tuple(
                (UNKNOWN_TOKEN, _bytes(rival), shapes.logprob(rival["logprob"]))
                for rival in shapes.objects(entry.get("top_logprobs"))
            ),
        )
        for token, entry in zip(tokens, entries, strict=True)
    )


def _legacy_logprobs(found: object, ids: tuple[int, ...]) -> tuple[TokenText, ...]:
    if not found:
        return ()
    fields = shapes.mapping(found)
    texts: list[str] = [shapes.text(item) for item in fields["tokens"]]
    values: list[object] = list(fields["token_logprobs"])
    tops: list[object] = list(fields.get("top_logprobs") or [None] * len(texts))
    tokens = ids if len(ids) == len(texts) else (UNKNOWN_TOKEN,) * len(texts)
    return tuple(
        TokenText(
            token=token,
            data=text.encode(),
            # An echoed prompt's first token has no probability; 0 as `TokenBackend.score` has it.
            logprob=0.0 if value is None else shapes.logprob(value),
            top=tuple(
                (UNKNOWN_TOKEN, shapes.text(rival).encode(), shapes.logprob(logprob))
                for rival, logprob in shapes.mapping(top).items()
            ),
        )
        for token, text, value, top in zip(tokens, texts, values, tops, strict=True)
    )


def _bytes(entry: dict[str, Any]) -> bytes:
    found = entry.get("bytes")
    if found is None:
        return shapes.text(entry["token"]).encode()
    if not isinstance(found, list):  # of a number, `bytes` would make that many zeros
        raise TypeError(f"{shapes.short(found)} is not a list of bytes")
    return bytes(cast("list[int]", found))


def _usage(found: dict[str, Any]) -> Usage:
    prompt = shapes.mapping(found.get("prompt_tokens_details"))
    completion = shapes.mapping(found.get("completion_tokens_details"))
    return Usage(
        prompt_tokens=shapes.count(found["prompt_tokens"]),
        cached_tokens=shapes.count(prompt.get("cached_tokens")),
        cache_write_tokens=shapes.count(prompt.get("cache_write_tokens")),
        completion_tokens=shapes.count(found.get("completion_tokens")),
        reasoning_tokens=shapes.count(completion.get("reasoning_tokens")),
    )
