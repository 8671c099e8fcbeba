"""Prompts and any `Backend` -> its answers as chats to tune on: sequence-level distillation.

A line of OUT is `messages` (the prompt and the answer), `tools`, `id` and `provenance`: who
answered, when, with which sampling, how it ended, what it used. `headrace train sft --data OUT`
reads it. What is not to be learned goes to OUT's neighbour `*.dropped.jsonl` with its reason: a
refusal, nothing, an answer that was cut off.

Invariant: each (prompt, sample) is answered at most once, however often the run is interrupted; a
line is written whole or, where the process is killed while writing, cut away at the next start.
Requests that failed are in neither file, and asked again by the next run.
"""

import asyncio
import datetime
import hashlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headrace.data.records import Prompt
from headrace.errors import (
    ConfigError,
    DataError,
    HeadraceError,
    ModelNotFound,
    Overloaded,
    ServiceError,
    Unauthorized,
)
from headrace.providers.openai_requests import chat_body
from headrace.types import (
    Backend,
    ChatRequest,
    Choice,
    Collected,
    FinishReason,
    Message,
    Part,
    ReasoningPart,
    Role,
    SamplingParams,
    TextPart,
    collect,
)

REFUSALS = (
    r"(?:i['’]m|i am) (?:sorry|unable|not able)",
    r"i (?:can['’]?t|cannot|won['’]t|will not) (?:help|assist|answer|provide|do that|comply)",
    r"as an ai\b",
)
"""How an answer begins that declines to be one; case does not matter."""

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """What is asked of the backend, beside the prompts."""

    model: str
    sampling: SamplingParams = field(default_factory=SamplingParams)
    samples: int = 1
    """Answers of each prompt."""
    concurrency: int = 8
    """Requests at once."""
    attempts: int = 4
    """Of one request, where its error says that another may succeed."""
    errors_in_a_row: int = 20
    """So many requests that fail one after the other end the run."""
    refusals: tuple[str, ...] = REFUSALS

    def __post_init__(self) -> None:
        for name in ("samples", "concurrency", "attempts", "errors_in_a_row"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} {getattr(self, name)} is below 1")


@dataclass(kw_only=True, slots=True)
class Tally:
    """How a run stands."""

    asked: int
    """Answers wanted, those of earlier runs included."""
    found: int = 0
    """Answered or dropped by earlier runs."""
    answered: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])
    """By reason, in this run."""
    failed: Counter[str] = field(default_factory=Counter[str])
    """By error code, in this run."""
    completion_tokens: int = 0
    last_error: str = ""

    @property
    def done(self) -> int:
        """Of `asked`, whatever became of them."""
        return self.found + self.answered + self.dropped.total() + self.failed.total()


async def ask(
    backend: Backend,
    prompts: Sequence[Prompt],
    out: Path,
    asking: Asking,
    *,
    sleep: Sleep = asyncio.sleep,
) -> AsyncIterator[Tally]:
    """Ask for every answer that OUT does not have yet; yields the tally at first and after each.

    Raises:
        Unauthorized, ModelNotFound, ConfigError: No request could ever succeed.
        DataError: OUT was begun with other prompts, another model or other sampling, or two prompts
            have one id.
        ServiceError: Too many requests failed one after the other.
    """
    dropped = out.with_name(out.name.removesuffix(".jsonl") + ".dropped.jsonl")
    wanted = _wanted(prompts, asking)
    known = {**_known(out, wanted), **_known(dropped, wanted)}
    open_jobs = [job for id, job in wanted.items() if id not in known]
    tally = Tally(asked=len(wanted), found=len(known))
    out.parent.mkdir(parents=True, exist_ok=True)
    yield tally
    waiting = iter(open_jobs)
    running: set[asyncio.Task[_Answer]] = set()
    in_a_row = 0
    try:
        with out.open("a", encoding="utf-8") as kept, dropped.open("a", encoding="utf-8") as bad:
            while True:
                for job in waiting:
                    running.add(asyncio.create_task(_answer(backend, job, asking, sleep)))
                    if len(running) >= asking.concurrency:
                        break
                if not running:
                    break
                ready, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ready:
                    answer = task.result()
                    if answer.error is not None:
                        tally.failed[answer.error.code] += 1
                        tally.last_error = answer.error.message
                        in_a_row += 1
                    else:
                        in_a_row = 0
                        tally.completion_tokens += answer.completion_tokens
                        stream = kept if answer.reason is None else bad
                        stream.write(json.dumps(answer.record, ensure_ascii=False) + "\n")
                        stream.flush()
                        if answer.reason is None:
                            tally.answered += 1
                        else:
                            tally.dropped[answer.reason] += 1
                    yield tally
                if in_a_row >= asking.errors_in_a_row:
                    raise ServiceError(
                        f"{in_a_row} requests failed one after the other, the last with: "
                        f"{tally.last_error}; {out} keeps what there is - run again to go on"
                    )
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if not dropped.stat().st_size:
            dropped.unlink()


def is_refusal(text: str, patterns: Sequence[str] = REFUSALS) -> bool:
    """Whether an answer begins by declining to be one."""
    return any(re.match(rf"\W*{pattern}", text, re.IGNORECASE) for pattern in patterns)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    id: str
    prompt: Prompt
    sampling: SamplingParams
    key: str
    """Of all that the answer depends on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])
    reason: str | None = None
    """Why it is not to be learned."""
    error: HeadraceError | None = None
    completion_tokens: int = 0


def _wanted(prompts: Sequence[Prompt], asking: Asking) -> dict[str, _Job]:
    jobs: dict[str, _Job] = {}
    for prompt in prompts:
        for sample in range(asking.samples):
            id = prompt.id if asking.samples == 1 else f"{prompt.id}#{sample}"
            if id in jobs:
                raise DataError(f"two prompts have the id {prompt.id!r}; ids tell what is answered")
            sampling = asking.sampling
            if sampling.seed is not None:
                sampling = replace(sampling, seed=sampling.seed + sample)
            jobs[id] = _Job(
                id=id,
                prompt=prompt,
                sampling=sampling,
                key=_key(prompt, sampling, asking.model),
            )
    return jobs


def _key(prompt: Prompt, sampling: SamplingParams, model: str) -> str:
    body = chat_body(
        ChatRequest(model=model, messages=prompt.messages, tools=prompt.tools, sampling=sampling),
        model=model,
        return_token_ids=False,
    )
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _known(path: Path, wanted: Mapping[str, _Job]) -> dict[str, str]:
    """id -> key of the lines that are there; a last line that was cut off is cut away."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) != len(data):
        path.write_bytes(whole)
    known: dict[str, str] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            record = json.loads(line)
            id, key = record["id"], record["provenance"]["request_sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number} is no line of this verb's; give another --out"
            ) from error
        if id not in wanted or wanted[id].key != key:
            raise DataError(
                f"{path}:{number} answers another request than {id!r} is now: the prompts, the "
                "model or the sampling changed; give another --out"
            )
        known[id] = key
    return known


async def _answer(backend: Backend, job: _Job, asking: Asking, sleep: Sleep) -> _Answer:
    request = ChatRequest(
        model=asking.model,
        messages=job.prompt.messages,
        tools=job.prompt.tools,
        sampling=job.sampling,
        trace=f"answers-{job.key[:16]}",
    )
    for attempt in range(1, asking.attempts + 1):
        try:
            collected = await collect(backend.stream(request))
        except (Unauthorized, ModelNotFound, ConfigError):
            raise
        except HeadraceError as error:
            if not error.retryable or attempt == asking.attempts:
                return _Answer(error=error)
            asked_s = (error.retry_after_s or 0) if isinstance(error, Overloaded) else 0
            await sleep(max(asked_s, 2.0 ** (attempt - 1)))
        else:
            return _judged(job, asking, collected)
    raise AssertionError("the last attempt returns")


def _judged(job: _Job, asking: Asking, collected: Collected) -> _Answer:
    (choice,) = collected.choices
    reason = _why_dropped(choice, asking.refusals)
    messages = (*job.prompt.messages, _message(choice))
    body = chat_body(
        ChatRequest(model="", messages=messages, tools=job.prompt.tools),
        model="",
        return_token_ids=False,
    )
    sampling, plain = job.sampling, SamplingParams()
    started, usage = collected.started, collected.usage
    record = {
        "id": job.id,
        "messages": body["messages"],
        **({"tools": body["tools"]} if job.prompt.tools else {}),
        "provenance": {
            "model": started.model,
            "system_fingerprint": started.system_fingerprint,
            "asked": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "sampling": {
                name: getattr(sampling, name)
                for name in ("temperature", "top_p", "top_k", "max_tokens", "seed")
                if getattr(sampling, name) != getattr(plain, name) or name in sampling.given
            },
            "finish": choice.finish.value,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "request_sha256": job.key,
        },
        **({} if reason is None else {"dropped": reason}),
    }
    return _Answer(record=record, reason=reason, completion_tokens=usage.completion_tokens)


def _why_dropped(choice: Choice, refusals: Sequence[str]) -> str | None:
    if choice.finish is FinishReason.CONTENT_FILTER:
        return "refusal"
    if choice.finish is FinishReason.LENGTH:
        return "cut off"  # to learn it would be to learn not to end
    if choice.tool_calls:
        return None
    if not choice.text.strip():
        return "empty"
    return "refusal" if is_refusal(choice.text, refusals) else None


def _message(choice: Choice) -> Message:
    parts: list[Part] = []
    if choice.reasoning:
        parts.append(ReasoningPart(text=choice.reasoning))
    if choice.text or not choice.tool_calls:
        parts.append(TextPart(text=choice.text))
    return Message(role=Role.ASSISTANT, parts=(*parts, *choice.tool_calls))
