"""Token events of a scripted engine become the events a client sees."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.chat import EngineChat
from headrace.engine.stops import StopWatch
from headrace.errors import (
    DeadlineExceeded,
    ServiceError,
    TemplateError,
    UnsupportedParameter,
    WorkerDied,
)
from headrace.model.generation import GenerationDefaults
from headrace.tokens import ChatTemplate, Tokenizer, train_bpe
from headrace.types import (
    Caller,
    ChatRequest,
    Collected,
    CompletionRequest,
    Event,
    Finished,
    FinishReason,
    FormatKind,
    Message,
    ModelCard,
    Priority,
    ReasoningDelta,
    ResponseFormat,
    Role,
    SamplingParams,
    Started,
    TextDelta,
    TextPart,
    TokenEvent,
    TokenLogprob,
    ToolCallDelta,
    ToolChoice,
    ToolSpec,
    Usage,
    collect,
)

TEMPLATE = (
    "{% if tools %}<tool_call>{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{# <think> #}"
)
TOKENIZER: Tokenizer = train_bpe(
    ["the quick brown fox jumps over the lazy dog, END of story. naïve café 日本 "] * 4,
    vocab_size=300,
    special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
)
EOS = TOKENIZER.special["<|im_end|>"]


@dataclass
class Source:
    """Plays events; remembers what it was asked."""

    events: list[TokenEvent]
    error: Exception | None = None
    asked: list[tuple[tuple[int, ...], SamplingParams, str, float | None]] = field(
        default_factory=list[tuple[tuple[int, ...], SamplingParams, str, float | None]]
    )
    closed: int = 0
    last_word: Usage | None = None
    """What was used in the end, where it is closed before."""

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        *,
        salt: str = "",
        deadline_s: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
        request_id: str = "",
        on_cancel: Callable[[Usage], None] | None = None,
    ) -> AsyncGenerator[TokenEvent, None]:
        self.asked.append((tuple(prompt), sampling, salt, deadline_s))
        try:
            for event in self.events:
                yield event
            if self.error is not None:
                raise self.error
        except GeneratorExit:
            if on_cancel is not None and self.last_word is not None:
                on_cancel(self.last_word)
            raise
        finally:
            self.closed += 1


def backend(source: Source, **options: GenerationDefaults) -> EngineChat:
    card = ModelCard(name="m", context_tokens=99, created_s=0, fingerprint="fp")
    return EngineChat(source, TOKENIZER, ChatTemplate(TEMPLATE), card, **options)


def said(
    ids: Sequence[int],
    *,
    index: int = 0,
    finish: FinishReason = FinishReason.STOP,
    stop: str | int | None = EOS,
    last: bool = True,
) -> list[TokenEvent]:
    """One event per id, the end on the last."""
    events = [
        TokenEvent(
            index=index, tokens=(id,), logprobs=(TokenLogprob(token=id, logprob=-float(id)),)
        )
        for id in ids
    ]
    usage = Usage(prompt_tokens=5, completion_tokens=len(ids)) if last else None
    events[-1] = replace(events[-1], finish=finish, stop=stop, usage=usage)
    return events


def chat(**options: Any) -> ChatRequest:
    messages = (Message(role=Role.USER, parts=(TextPart(text="hi"),)),)
    return ChatRequest(model="m", messages=messages, **options)


def answer(source: Source, request: ChatRequest | CompletionRequest) -> Collected:
    made = backend(source)
    if isinstance(request, ChatRequest):
        return asyncio.run(collect(made.stream(request)))
    return asyncio.run(collect(made.complete(request)))


def listed(source: Source, request: ChatRequest) -> list[Event]:
    async def run() -> list[Event]:
        return [event async for event in backend(source).stream(request)]

    return asyncio.run(run())


def test_text_ids_and_logprobs_arrive_whole() -> None:
    ids = [*TOKENIZER.encode("naïve 日本 café"), EOS]
    got = answer(Source(said(ids)), chat())
    choice = got.choices[0]
    assert choice.text == "naïve 日本 café"
    assert choice.token_ids == tuple(ids)
    assert [text.token for text in choice.logprobs] == ids
    assert b"".join(text.data for text in choice.logprobs[:-1]).decode() == choice.text
    assert (choice.finish, choice.stop) == (FinishReason.STOP, EOS)
    assert got.usage == Usage(prompt_tokens=5, completion_tokens=len(ids))


def test_started_first_finished_last() -> None:
    source = Source(said([*TOKENIZER.encode("fox"), EOS]))
    events = listed(source, chat(trace="abc", caller=Caller(tenant="t"), deadline_s=3.0))
    first, last = events[0], events[-1]
    assert isinstance(first, Started)
    assert isinstance(last, Finished)
    prompt, sampling, salt, deadline_s = source.asked[0]
    assert (first.id, first.model, first.system_fingerprint) == ("abc", "m", "fp")
    assert (first.prompt_ids, first.prompt_tokens) == (prompt, len(prompt))
    assert first.seed == sampling.seed
    assert (salt, deadline_s) == ("t", 3.0)
    assert source.closed == 1


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(alphabet="abEND of日ï", max_size=30),
    stops=st.lists(st.text(alphabet="ENDof ", min_size=1, max_size=4), max_size=3).map(tuple),
    include=st.booleans(),
    min_tokens=st.integers(0, 6),
    width=st.integers(1, 4),
)
def test_the_cut_is_the_workers(
    text: str, stops: tuple[str, ...], include: bool, min_tokens: int, width: int
) -> None:
    sampling = SamplingParams(
        stop=stops, include_stop=include, min_tokens=min_tokens, given=frozenset({"stop"})
    )
    ids = [*TOKENIZER.encode(text), EOS]
    watch = StopWatch(TOKENIZER, sampling)
    kept: list[int] = []
    matched: str | None = None
    for id in ids:
        kept.append(id)
        matched = watch.push((id,)) if stops else None
        if matched is not None:
            break
    events = said(kept, stop=EOS if matched is None else matched)
    merged: list[TokenEvent] = []
    for at in range(0, len(events), width):
        group = events[at : at + width]
        merged.append(
            replace(
                group[-1],
                tokens=tuple(id for event in group for id in event.tokens),
                logprobs=tuple(scored for event in group for scored in event.logprobs),
            )
        )
    request = CompletionRequest(model="m", prompt="x", sampling=sampling)
    choice = answer(Source(merged), request).choices[0]
    whole = TOKENIZER.decode(kept)
    if matched is None:
        assert choice.text == whole
    else:
        at = whole.rindex(matched)
        assert choice.text == whole[: at + (len(matched) if include else 0)]
    assert choice.token_ids == tuple(kept)
    assert len(choice.logprobs) == len(kept)


def test_choices_interleave() -> None:
    one = said([*TOKENIZER.encode("fox"), EOS], last=False)
    two = said([*TOKENIZER.encode("dog the dog"), EOS], index=1)
    mixed = [event for pair in zip(one, two, strict=False) for event in pair]
    mixed += two[len(one) :] if len(two) > len(one) else one[len(two) :]
    got = answer(Source(mixed), chat(sampling=SamplingParams(n=2)))
    assert [choice.text for choice in got.choices] == ["fox", "dog the dog"]


def test_reasoning_is_apart_and_counted() -> None:
    ids = [*TOKENIZER.encode("<think>\nlazy\n</think>\n\nfox"), EOS]
    source = Source(said(ids))
    events = listed(source, chat())
    assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == "lazy"
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "fox"
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.usage is not None
    assert 0 < last.usage.reasoning_tokens < len(ids)


def test_tool_calls_change_the_reason() -> None:
    text = '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'
    source = Source(said([*TOKENIZER.encode(text), EOS]))
    events = listed(source, chat(tools=(ToolSpec(name="look"),)))
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    assert [(call.name, call.arguments) for call in calls] == [("look", '{"at": 1}')]
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.TOOL_CALLS


def test_tools_are_not_offered_where_the_choice_is_none() -> None:
    text = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    request = chat(tools=(ToolSpec(name="look"),), tool_choice=ToolChoice.NONE)
    source = Source(said([*TOKENIZER.encode(text), EOS]))
    got = answer(source, request)
    assert (got.choices[0].text, got.choices[0].tool_calls) == (text, ())
    assert source.asked[0][0] == backend(source).render(chat()).ids


def test_echo_begins_with_the_prompt_and_its_scores() -> None:
    events = said([*TOKENIZER.encode(" fox"), EOS])
    events[0] = replace(
        events[0], prompt_logprobs=(None, TokenLogprob(token=5, logprob=-2.0, top=((6, -1.0),)))
    )
    source = Source(events)
    request = CompletionRequest(
        model="m", prompt="the", echo=True, sampling=SamplingParams(logprobs=1)
    )
    got = answer(source, request)
    assert got.choices[0].text == "the fox"
    assert source.asked[0][1].prompt_logprobs == 1
    scores = got.started.prompt_logprobs
    assert scores is not None
    assert scores[0] is None
    assert scores[1] is not None
    assert scores[1].top == ((6, TOKENIZER.token_bytes(6), -1.0),)


def test_ids_as_prompt_pass_through() -> None:
    source = Source(said([EOS]))
    request = CompletionRequest(model="m", prompt=(7, 8), echo=True)
    assert answer(source, request).choices[0].text == TOKENIZER.decode((7, 8))
    assert source.asked[0][0] == (7, 8)


def test_a_stop_id_is_no_text_unless_asked() -> None:
    ids = TOKENIZER.encode("dog.")
    for include, text in ((False, "dog"), (True, "dog.")):
        sampling = SamplingParams(stop_token_ids=(ids[-1],), include_stop=include)
        request = CompletionRequest(model="m", prompt="x", sampling=sampling)
        choice = answer(Source(said(ids, stop=ids[-1])), request).choices[0]
        assert choice.text == text
        assert choice.token_ids == tuple(ids)


def test_models_defaults_fill_only_what_was_left_out() -> None:
    source = Source(said([EOS]))
    made = backend(source, defaults=GenerationDefaults(temperature=0.6, top_k=20))
    sampling = SamplingParams(top_k=3, given=frozenset({"top_k"}), seed=9)
    asyncio.run(collect(made.stream(chat(sampling=sampling))))
    used = source.asked[0][1]
    assert (used.temperature, used.top_k, used.seed) == (0.6, 3, 9)


def test_deadline_before_the_first_token_is_an_error() -> None:
    ended = TokenEvent(finish=FinishReason.DEADLINE, usage=Usage(prompt_tokens=5))
    with pytest.raises(DeadlineExceeded, match="2 s") as caught:
        answer(Source([ended]), chat(deadline_s=2.0))
    assert caught.value.usage == Usage(prompt_tokens=5)


def test_deadline_later_is_a_finish() -> None:
    ids = TOKENIZER.encode("fox the")
    got = answer(Source(said(ids, finish=FinishReason.DEADLINE, stop=None)), chat())
    assert (got.choices[0].finish, got.choices[0].text) == (FinishReason.DEADLINE, "fox the")


def test_a_failed_request_and_a_dead_worker_raise() -> None:
    failed = TokenEvent(finish=FinishReason.ERROR, usage=Usage(), error="no finite logit")
    with pytest.raises(ServiceError, match="no finite logit"):
        answer(Source([failed]), chat())
    with pytest.raises(WorkerDied):
        answer(Source([TokenEvent(tokens=(5,))], error=WorkerDied("x")), chat())


def test_closing_early_closes_the_source() -> None:
    async def run() -> int:
        source = Source(said([*TOKENIZER.encode("the fox"), EOS]))
        events = backend(source).stream(chat())
        await anext(events)
        await events.aclose()
        return source.closed

    assert asyncio.run(run()) == 1


def test_refusals() -> None:
    source = Source([])
    with pytest.raises(UnsupportedParameter, match="response_format"):
        answer(source, chat(format=ResponseFormat(kind=FormatKind.JSON_OBJECT)))
    card = ModelCard(name="m", context_tokens=9, created_s=0)
    bare = EngineChat(source, TOKENIZER, TemplateError("none here; give one"), card)
    with pytest.raises(TemplateError, match="give one"):
        asyncio.run(collect(bare.stream(chat())))
    assert source.asked == []


def test_codec() -> None:
    made = backend(Source([]))
    assert made.tokenize("<|im_end|>") == (EOS,)
    assert made.detokenize((EOS, *TOKENIZER.encode("fox"))) == "<|im_end|>fox"
    assert "".join(made.token_texts(TOKENIZER.encode("the fox"))) == "the fox"
