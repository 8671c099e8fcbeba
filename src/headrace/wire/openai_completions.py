"""POST /v1/completions: bytes → `CompletionCall`; events → chunks; `Collected` → the answer.

A prompt is text or token ids, or a list of either: each prompt is a request of its own, and choice
`p * n + c` is choice c of prompt p. As in OpenAI's API `max_tokens` is 16 unless said.

`suffix` and a `best_of` other than `n` are refused by name. Values without effect are
accepted as `INERT` lists them. With `echo` and `logprobs` the prompt's
tokens are scored too; its first token has no probability (null).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from headrace.errors import InvalidParameter, UnsupportedParameter
from headrace.types import (
    Choice,
    Collected,
    CompletionRequest,
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    Usage,
)
from headrace.wire import openai_answers as answers
from headrace.wire.json_body import Fields, parse, string_at
from headrace.wire.openai_chat import (
    WITHOUT_EFFECT,
    decode_deadline,
    decode_end_user,
    decode_stream_options,
    refuse_streamed_prompt_logprobs,
)
from headrace.wire.sampling import MAX_TOKENS, MAX_TOP_LOGPROBS, decode_sampling, token_ids_at
from headrace.wire.sse import frame

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 128

INERT = {
    name: WITHOUT_EFFECT[name]
    for name in (
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "return_tokens_as_token_ids",
        "use_beam_search",
        "length_penalty",
        "priority",
        "store",
        "metadata",
        "service_tier",
    )
}
_UNSUPPORTED = {
    "suffix": "put both halves into the prompt in the model's own fill-in-the-middle format",
    "response_format": "constrained decoding is not available",
    "truncate_prompt_tokens": "nothing is truncated; shorten the prompt",
    "prompt_embeds": "send text or token ids",
    "messages": "send them to /v1/chat/completions",
    "tools": "send them to /v1/chat/completions",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionCall:
    """A decoded request: one `CompletionRequest` a prompt, and how to say the answer."""

    requests: tuple[CompletionRequest, ...]
    stream: bool = False
    include_usage: bool = False
    return_token_ids: bool = False
    end_user: str = ""


def decode(body: bytes) -> CompletionCall:
    """Parse a request.

    Raises:
        UserError: Whatever is wrong with it; for any bytes there is nothing else to raise.
    """
    fields = parse(body)
    model = fields.required_string("model", max_chars=256)
    max_tokens = fields.integer("max_tokens", low=1, high=MAX_TOKENS)
    sampling = decode_sampling(
        fields,
        max_tokens=DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
        logprobs=fields.integer("logprobs", low=0, high=MAX_TOP_LOGPROBS),
    )
    best_of = fields.integer("best_of", low=1, high=2**31 - 1)
    if best_of not in (None, sampling.n):
        raise UnsupportedParameter(
            f"`best_of` {best_of} is not supported; send n = {best_of} and choose", param="best_of"
        )
    stream = fields.boolean("stream")
    refuse_streamed_prompt_logprobs(sampling.prompt_logprobs, stream=stream)
    prompts = _prompts(fields)
    echo, deadline_s = fields.boolean("echo"), decode_deadline(fields)
    add_special = fields.boolean("add_special_tokens", default=True)
    call = CompletionCall(
        requests=tuple(
            CompletionRequest(
                model=model,
                prompt=prompt,
                echo=echo,
                add_special_tokens=add_special,
                sampling=sampling,
                deadline_s=deadline_s,
            )
            for prompt in prompts
        ),
        stream=stream,
        include_usage=decode_stream_options(fields, stream=stream),
        return_token_ids=fields.boolean("return_token_ids"),
        end_user=decode_end_user(fields),
    )
    fields.close(without_effect=INERT, unsupported=_UNSUPPORTED)
    return call


def encode(
    info: answers.AnswerInfo, collected: Sequence[Collected], *, unscored: Sequence[str | None]
) -> bytes:
    """The whole answer.

    Args:
        info: Id, model and what the caller wants to see.
        collected: One a prompt.
        unscored: One a prompt: the text of its first token where prompts are echoed with
            log-probabilities, else None.
    """
    body = answers.head(info, collected[0].started, "text_completion")
    choices: list[dict[str, Any]] = []
    usage = Usage()
    for item, first in zip(collected, unscored, strict=True):
        usage = answers.add_usage(usage, item.usage)
        for choice in item.choices:
            choices.append(_choice(info, item.started, choice, len(choices), first))
    body["choices"] = choices
    body["usage"] = answers.usage_object(usage)
    body["seed"] = collected[0].started.seed
    return msgspec.json.encode(body)


class ChunkEncoder:
    """`push` each event of a stream with the prompt it belongs to, then `end`."""

    def __init__(
        self, info: answers.AnswerInfo, *, choices_per_prompt: int, unscored: Sequence[str | None]
    ) -> None:
        self._info = info
        self._per_prompt = choices_per_prompt
        self._unscored = unscored
        self._started: dict[int, Started] = {}
        self._offsets: dict[int, int] = {}
        self._usage = Usage()

    def push(self, prompt: int, event: Event) -> bytes:
        """Frames of one event."""
        match event:
            case Started():
                self._started[prompt] = event
                return b""
            case TextDelta() | ReasoningDelta():
                return self._text(prompt, event)
            case Finished():
                if event.usage is not None:
                    self._usage = answers.add_usage(self._usage, event.usage)
                finish = answers.finish_fields(event.reason, event.stop)
                return self._chunk(prompt, event.index, "", finish)
            case _:  # neither calls nor citations come from a raw prompt
                return b""

    def end(self) -> bytes:
        """The usage chunk, where it was asked for."""
        if not self._info.include_usage:
            return b""
        usage = answers.usage_object(self._usage)
        return frame(msgspec.json.encode({**self._head(0), "choices": [], "usage": usage}))

    def _text(self, prompt: int, event: TextDelta | ReasoningDelta) -> bytes:
        index = prompt * self._per_prompt + event.index
        first = index not in self._offsets
        offset = self._offsets.setdefault(index, 0)
        extra: dict[str, Any] = {}
        started = self._started[prompt]
        if self._info.logprobs:
            tokens, unscored = [*event.logprobs], None
            if first and self._unscored[prompt] is not None:
                unscored = self._unscored[prompt]
                tokens = [*_scored(started), *tokens]
            if tokens or unscored is not None:
                extra["logprobs"] = answers.legacy_logprobs(
                    tokens, offset=offset, unscored=unscored
                )
        if self._info.return_token_ids:
            if event.token_ids:
                extra["token_ids"] = event.token_ids
            if first:
                extra["prompt_token_ids"] = started.prompt_ids
        self._offsets[index] = offset + len(event.text)
        if not event.text and not extra:
            return b""
        return self._chunk(prompt, event.index, event.text, extra)

    def _head(self, prompt: int) -> dict[str, Any]:
        head = answers.head(self._info, self._started[prompt], "text_completion")
        return {**head, "usage": None} if self._info.include_usage else head

    def _chunk(self, prompt: int, index: int, text: str, extra: dict[str, Any]) -> bytes:
        choice = {
            "index": prompt * self._per_prompt + index,
            "text": text,
            "logprobs": None,
            "finish_reason": None,
            **extra,
        }
        return frame(msgspec.json.encode({**self._head(prompt), "choices": [choice]}))


def _choice(
    info: answers.AnswerInfo, started: Started, choice: Choice, index: int, unscored: str | None
) -> dict[str, Any]:
    logprobs = None
    if info.logprobs:
        tokens = choice.logprobs if unscored is None else (*_scored(started), *choice.logprobs)
        logprobs = answers.legacy_logprobs(tokens, offset=0, unscored=unscored)
    body: dict[str, Any] = {
        "index": index,
        "text": choice.reasoning + choice.text,
        "logprobs": logprobs,
        **answers.finish_fields(choice.finish, choice.stop),
    }
    if info.return_token_ids:
        body |= {"prompt_token_ids": started.prompt_ids, "token_ids": choice.token_ids}
    if started.prompt_logprobs is not None and unscored is None:
        body["prompt_logprobs"] = answers.prompt_logprobs(started.prompt_logprobs)
    return body


def _scored(started: Started) -> list[Any]:
    return [item for item in started.prompt_logprobs or () if item is not None]


def _prompts(fields: Fields) -> tuple[str | tuple[int, ...], ...]:
    value = fields.take("prompt")
    if value is None:
        raise InvalidParameter("`prompt` is missing; send text or token ids", param="prompt")
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise InvalidParameter(
            "`prompt` must be text, token ids, or a list of at least one of either", param="prompt"
        )
    items = cast("list[Any]", value)
    if not isinstance(items[0], str | list):
        return (token_ids_at(items, "prompt"),)
    if len(items) > MAX_PROMPTS:
        raise InvalidParameter(
            f"`prompt` has {len(items)} prompts; the limit is {MAX_PROMPTS}", param="prompt"
        )
    texts = isinstance(items[0], str)
    prompts: list[str | tuple[int, ...]] = []
    for at, item in enumerate(items):
        path = f"prompt[{at}]"
        prompts.append(string_at(item, path) if texts else token_ids_at(item, path))
        if not prompts[-1] and not texts:
            raise InvalidParameter(f"`{path}` is empty; send at least one id", param=path)
    return tuple(prompts)
