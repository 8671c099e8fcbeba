"""Messages and prompts become token events, and those become the events a client sees.

`EngineChat` is the `Backend` of a local model: render, submit, detokenize, cut at stop strings,
parse reasoning and tool calls. Invariants: what streams is what collects, because there is only the
stream; every sampled id and its log-probability is on exactly one delta, the first that follows it;
when a choice ends is the worker's decision, this side only cuts the text at the same place.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from headrace.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    ServiceError,
    TemplateError,
    UnsupportedParameter,
)
from headrace.model.files import peek
from headrace.model.generation import GenerationDefaults
from headrace.tokens import ChatTemplate, Detokenizer, Rendered, StopMatcher, Tokenizer, render
from headrace.tokens.parse import OutputParser, Parsed, ParsedCall, ParsedReasoning, ParsedText
from headrace.types import (
    ChatRequest,
    CompletionRequest,
    Event,
    Finished,
    FinishReason,
    FormatKind,
    ModelCard,
    Priority,
    ReasoningDelta,
    ReasoningParams,
    SamplingParams,
    Started,
    TextDelta,
    TextPart,
    TokenEvent,
    TokenLogprob,
    TokenText,
    ToolCallDelta,
    ToolChoice,
    ToolSpec,
    Trail,
    Usage,
)

_DEFAULTED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_INLINE_CHARACTERS = 4096
_SURELY_TOO_LONG = 4
"""Contexts that a text must exceed, at its tokenizer's longest token, to be refused unencoded; more
than one, because a normalizer may shorten text a little."""


class TokenSource(Protocol):
    """The part of `EngineClient` that is used here."""

    def generate(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        *,
        salt: str = "",
        deadline_s: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
        request_id: str = "",
        on_cancel: Callable[[Usage], None] | None = None,
    ) -> AsyncGenerator[TokenEvent, None]: ...


class EngineChat:
    """A local model as `Backend`, `CompletionBackend` and text codec."""

    def __init__(
        self,
        source: TokenSource,
        tokenizer: Tokenizer,
        template: ChatTemplate | TemplateError,
        card: ModelCard,
        *,
        defaults: GenerationDefaults | None = None,
    ) -> None:
        """Join the parts.

        Args:
            source: Continues ids.
            tokenizer: The model's.
            template: The model's; an error is what every chat request then raises.
            card: Name and fingerprint to report.
            defaults: What the model's makers recommend for fields that a request leaves out.
        """
        self.card = card
        self._source = source
        self._tokenizer = tokenizer
        self._template = template
        self._defaults = defaults or GenerationDefaults()

    @classmethod
    def load(
        cls, source: TokenSource, path: Path, card: ModelCard, *, chat_template: Path | None = None
    ) -> "EngineChat":
        """Read everything but the weights from a checkpoint directory.

        Args:
            source: Continues ids.
            path: The directory.
            card: Name and fingerprint to report.
            chat_template: A Jinja file instead of the checkpoint's own template.

        Raises:
            TokenizerError, CheckpointError: A file that is missing or malformed.
            TemplateError: `chat_template` is; without it, only chat requests are refused.
        """
        template: ChatTemplate | TemplateError
        if chat_template is not None:
            template = ChatTemplate.load(chat_template)
        else:
            try:
                template = ChatTemplate.load(path)
            except TemplateError as error:
                template = error
        return cls(source, Tokenizer.load(path), template, card, defaults=peek(path).generation)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Answer a conversation."""
        request.trail.heard, request.trail.heard_all = Usage(), True  # until it is submitted
        _refuse_unsupported(request)
        self._refuse_hopeless(
            sum(
                len(part.text)
                for message in request.messages
                for part in message.parts
                if isinstance(part, TextPart)
            ),
            param="messages",
        )
        rendered = await asyncio.to_thread(self.render, request)
        template = self._chat_template()
        tools = _offered(request)
        source = template.source_for(tools=bool(tools))

        def parser() -> OutputParser:
            return OutputParser(source, tools=bool(tools), prompt=rendered.text)

        events = self._run(
            rendered.ids,
            self._filled(request.sampling, request.trail),
            salt=request.caller.tenant,
            deadline_s=request.deadline_s,
            priority=request.priority,
            trace=request.trace,
            trail=request.trail,
            parser=parser,
        )
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def complete(self, request: CompletionRequest) -> AsyncGenerator[Event, None]:
        """Continue a raw prompt."""
        request.trail.heard, request.trail.heard_all = Usage(), True  # until it is submitted
        sampling = self._filled(request.sampling, request.trail)
        prompt = request.prompt
        if isinstance(prompt, str):
            self._refuse_hopeless(len(prompt), param="prompt")
        if not isinstance(prompt, str):
            ids = prompt
        elif len(prompt) <= _INLINE_CHARACTERS:
            ids = self.tokenize(prompt, add_special=request.add_special_tokens)
        else:
            ids = await asyncio.to_thread(
                self.tokenize, prompt, add_special=request.add_special_tokens
            )
        echo: str | None = None
        if request.echo:
            echo = prompt if isinstance(prompt, str) else self.detokenize(ids)
            if sampling.prompt_logprobs is None and sampling.logprobs is not None:
                sampling = replace(sampling, prompt_logprobs=sampling.logprobs)
        events = self._run(
            ids,
            sampling,
            salt=request.caller.tenant,
            deadline_s=request.deadline_s,
            priority=request.priority,
            trace=request.trace,
            trail=request.trail,
            echo=echo,
        )
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    def tokenize(self, text: str, *, add_special: bool = True) -> tuple[int, ...]:
        """Ids of a raw prompt; control tokens in it are recognised, as `complete` does."""
        encode = self._tokenizer.encode_prompt if add_special else self._tokenizer.encode_control
        return tuple(encode(text))

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included.

        Raises: InvalidParameter: An id outside the vocabulary.
        """
        return self._tokenizer.decode(ids, skip_special=False)

    def token_texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Each token alone; bytes that are no UTF-8 by themselves become U+FFFD."""
        return tuple(self._tokenizer.token_bytes(token).decode("utf-8", "replace") for token in ids)

    def render(self, request: ChatRequest) -> Rendered:
        """The prompt of a conversation, exactly as `stream` submits it."""
        return render(
            self._tokenizer,
            self._chat_template(),
            request.messages,
            tools=_offered(request),
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            variables=request.template_kwargs,
        )

    def _refuse_hopeless(self, characters: int, *, param: str) -> None:
        """Encoding megabytes only to count them would let one caller hold a core for a minute."""
        context = self.card.context_tokens
        if characters <= _SURELY_TOO_LONG * context:
            return
        least = characters // self._tokenizer.longest_token_bytes
        if least > _SURELY_TOO_LONG * context:
            raise ContextLengthExceeded(
                f"the prompt of {characters} characters is at least {least} tokens and the context "
                f"is {context}; shorten it",
                param=param,
            )

    def _chat_template(self) -> ChatTemplate:
        if isinstance(self._template, TemplateError):
            raise TemplateError(self._template.message, param="messages")
        return self._template

    def _filled(self, sampling: SamplingParams, trail: Trail) -> SamplingParams:
        """The caller's values, else the model's, else ours; and a seed."""
        filled: dict[str, float | int] = {}
        for name in _DEFAULTED:
            value = getattr(self._defaults, name)
            if value is not None and name not in sampling.given:
                filled[name] = value
        if filled:
            sampling = replace(sampling, **filled)
            trail.note("parameters", "generation_config", **filled)
        if sampling.seed is None:
            seed = secrets.randbits(63)
            sampling = replace(sampling, seed=seed)
            trail.note("parameters", "drawn", seed=seed)
        return sampling

    async def _run(
        self,
        ids: tuple[int, ...],
        sampling: SamplingParams,
        *,
        salt: str,
        deadline_s: float | None,
        priority: Priority,
        trace: str,
        trail: Trail,
        echo: str | None = None,
        parser: Callable[[], OutputParser] | None = None,
    ) -> AsyncGenerator[Event, None]:
        answers = [
            _Answer(self._tokenizer, sampling, index, parser() if parser else None)
            for index in range(sampling.n)
        ]
        created_s = int(time.time())
        started = produced = False

        def on_cancel(usage: Usage) -> None:
            trail.heard, trail.heard_all = usage, True

        trail.heard, trail.heard_all = None, False
        events = self._source.generate(
            ids,
            sampling,
            salt=salt,
            deadline_s=deadline_s,
            priority=priority,
            request_id=trace,
            on_cancel=on_cancel,
        )
        async with contextlib.aclosing(events):
            async for event in events:
                produced = produced or bool(event.tokens)
                self._raise_for(event, produced=produced, deadline_s=deadline_s)
                if not started:
                    started = True
                    yield Started(
                        id=trace or secrets.token_hex(12),
                        model=self.card.name,
                        created_s=created_s,
                        prompt_tokens=len(ids),
                        prompt_ids=ids,
                        seed=sampling.seed or 0,
                        system_fingerprint=self.card.fingerprint,
                        prompt_logprobs=self._prompt_texts(event),
                        ran_s=(event.ran_us or 0) / 1e6,
                    )
                    for index in range(sampling.n if echo else 0):
                        yield TextDelta(text=echo or "", index=index)
                texts = tuple(self._token_text(logprob) for logprob in event.logprobs)
                answer = answers[event.index]
                for delta in answer.take(event, texts):
                    yield delta
                if event.finish is not None:
                    usage = event.usage
                    if usage is not None:
                        reasoning = sum(answer.reasoning_tokens for answer in answers)
                        usage = replace(usage, reasoning_tokens=reasoning)
                    yield Finished(
                        reason=answer.reason(event.finish),
                        index=event.index,
                        stop=event.stop,
                        usage=usage,
                    )

    def _raise_for(self, event: TokenEvent, *, produced: bool, deadline_s: float | None) -> None:
        error: ServiceError
        if event.finish is FinishReason.ERROR:
            error = ServiceError(event.error or "the engine failed on this request")
        elif event.finish is FinishReason.DEADLINE and not produced:
            error = DeadlineExceeded(
                f"the deadline of {deadline_s or 0:g} s passed before the first token; "
                "raise `deadline_s` or try again when the service is less busy"
            )
        else:
            return
        error.usage = event.usage
        raise error

    def _prompt_texts(self, event: TokenEvent) -> tuple[TokenText | None, ...] | None:
        if event.prompt_logprobs is None:
            return None
        return tuple(
            None if scored is None else self._token_text(scored) for scored in event.prompt_logprobs
        )

    def _token_text(self, scored: TokenLogprob) -> TokenText:
        return TokenText(
            token=scored.token,
            data=self._bytes(scored.token),
            logprob=scored.logprob,
            top=tuple((token, self._bytes(token), logprob) for token, logprob in scored.top),
        )

    def _bytes(self, token: int) -> bytes:
        # A model's head may have more rows than its tokenizer has tokens.
        return self._tokenizer.token_bytes(token) if token < self._tokenizer.vocab_size else b""


class _Answer:
    """One choice: ids in, deltas out."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        sampling: SamplingParams,
        index: int,
        parser: OutputParser | None,
    ) -> None:
        marks = parser.marks if parser else ()
        keep = [tokenizer.special[mark] for mark in marks if mark in tokenizer.special]
        self._detokenizer = Detokenizer(tokenizer, keep=keep)
        self._matcher = StopMatcher(sampling.stop, include=sampling.include_stop)
        self._matches = bool(sampling.stop)
        # As in the worker: text of the tokens before min_tokens is not searched.
        self._unsearched = max(0, sampling.min_tokens - 1)
        self._include_stop = sampling.include_stop
        self._parser = parser
        self._index = index
        self._ids: list[int] = []
        self._logprobs: list[TokenText] = []
        self.reasoning_tokens = 0

    def take(self, event: TokenEvent, texts: tuple[TokenText, ...]) -> list[Event]:
        """The deltas that an event completes."""
        self._ids += event.tokens
        self._logprobs += texts
        shown = event.tokens
        if isinstance(event.stop, int) and not self._include_stop:
            shown = shown[:-1]  # the id that ended the choice is no text of it
        text = self._text(shown)
        ended = event.finish is not None
        if ended and not isinstance(event.stop, str):
            text += self._matcher.flush() + self._detokenizer.flush()
        deltas: list[Event] = [self._delta(piece) for piece in self._parsed(text, ended=ended)]
        if ended and self._ids:
            deltas.append(self._delta(ParsedText(text="")))
        return deltas

    def reason(self, finish: FinishReason) -> FinishReason:
        """The engine's reason, or `tool_calls` where that is what the answer stopped for."""
        called = self._parser is not None and self._parser.called
        return FinishReason.TOOL_CALLS if called and finish is FinishReason.STOP else finish

    def _text(self, ids: tuple[int, ...]) -> str:
        if not self._matches:
            return self._detokenizer.push(ids)
        pieces: list[str] = []
        for token in ids:
            text = self._detokenizer.push((token,))
            if self._unsearched:
                self._unsearched -= 1
                pieces.append(text)
            else:
                pieces.append(self._matcher.push(text).text)
        return "".join(pieces)

    def _parsed(self, text: str, *, ended: bool) -> list[Parsed]:
        if self._parser is None:
            return [ParsedText(text=text)] if text else []
        pieces = self._parser.push(text) if text else []
        return pieces + self._parser.flush() if ended else pieces

    def _delta(self, piece: Parsed) -> TextDelta | ReasoningDelta | ToolCallDelta:
        ids, logprobs = tuple(self._ids), tuple(self._logprobs)
        self._ids, self._logprobs = [], []
        match piece:
            case ParsedText():
                return TextDelta(
                    text=piece.text, index=self._index, token_ids=ids, logprobs=logprobs
                )
            case ParsedReasoning():
                self.reasoning_tokens += len(ids)
                return ReasoningDelta(
                    text=piece.text, index=self._index, token_ids=ids, logprobs=logprobs
                )
            case ParsedCall():
                return ToolCallDelta(
                    call=piece.call,
                    id=piece.id,
                    name=piece.name,
                    arguments=piece.arguments,
                    index=self._index,
                    token_ids=ids,
                    logprobs=logprobs,
                )


def _refuse_unsupported(request: ChatRequest) -> None:
    """What a provider's API may have and this engine has not, refused by its name there."""
    if request.format.kind is not FormatKind.TEXT:
        raise UnsupportedParameter(
            f"`response_format` {request.format.kind} needs constrained decoding, which this "
            "model's engine does not have; use text and ask for JSON in the prompt",
            param="response_format",
        )
    if request.tool_choice is ToolChoice.REQUIRED:
        raise UnsupportedParameter(
            "`tool_choice` required is not supported by this model's engine: a call cannot be "
            "forced without constrained decoding; send auto or none",
            param="tool_choice",
        )
    if not request.parallel_tool_calls:
        raise UnsupportedParameter(
            "`parallel_tool_calls` false is not supported by this model's engine: how many calls "
            "it makes is the model's doing; leave it out",
            param="parallel_tool_calls",
        )
    if request.reasoning != ReasoningParams():
        raise UnsupportedParameter(
            "this model's engine has no reasoning effort or budget; set its template's own "
            "variable in `chat_template_kwargs`",
            param="reasoning_effort",
        )


def _offered(request: ChatRequest) -> tuple[ToolSpec, ...]:
    return () if request.tool_choice is ToolChoice.NONE else request.tools
