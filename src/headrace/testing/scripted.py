"""A backend that plays a script: events, errors and pauses, the same way each time.

Answers both protocols (`Backend` and `CompletionBackend`), keeps every request it got, and knows
which were closed before their end, so a test can see that a disconnect cancelled the work.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from headrace.types import (
    ChatRequest,
    CompletionRequest,
    Event,
    Finished,
    FinishReason,
    Started,
    TextDelta,
    TokenText,
    Usage,
)

Request: TypeAlias = ChatRequest | CompletionRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """Do nothing for a while."""

    seconds: float


Step: TypeAlias = Event | BaseException | Pause


class ScriptedBackend:
    """Plays `script` for each request; a function makes one out of the request."""

    def __init__(self, script: Sequence[Step] | Callable[[Request], Iterable[Step]]) -> None:
        self._script = script
        self.requests: list[Request] = []
        self.cancelled: list[Request] = []
        """Those whose generator was closed or cancelled before the script's end."""
        self.running = 0

    def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """Play for a chat request."""
        return self._play(request)

    def complete(self, request: CompletionRequest) -> AsyncIterator[Event]:
        """Play for a raw prompt."""
        return self._play(request)

    async def _play(self, request: Request) -> AsyncIterator[Event]:
        self.requests.append(request)
        self.running += 1
        try:
            for step in self._script(request) if callable(self._script) else self._script:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, BaseException):
                    raise step
                else:
                    yield step
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled.append(request)
            raise
        finally:
            self.running -= 1


def reply(
    request: Request,
    pieces: Sequence[str] = ("Hello", ", ", "world"),
    *,
    pause_s: float = 0.0,
    prompt_tokens: int = 7,
    reason: FinishReason = FinishReason.STOP,
) -> Iterator[Step]:
    """A well-formed answer: each piece one token, for each choice, with what was asked.

    Token ids count from 1000; log-probabilities are -0.5 and rivals follow.
    """
    sampling = request.sampling
    yield Started(
        id=request.trace,
        model=request.model,
        created_s=1_700_000_000,
        prompt_tokens=prompt_tokens,
        prompt_ids=tuple(range(prompt_tokens)),
        seed=sampling.seed or 0,
        system_fingerprint="scripted",
    )
    kept = pieces[: sampling.max_tokens]
    if len(kept) < len(pieces):
        reason = FinishReason.LENGTH
    for at, piece in enumerate(kept):
        if pause_s:
            yield Pause(seconds=pause_s)
        for index in range(sampling.n):
            yield TextDelta(
                text=piece,
                index=index,
                token_ids=(1000 + at,),
                logprobs=_logprobs(request, at, piece),
            )
    usage = Usage(
        prompt_tokens=prompt_tokens, cached_tokens=2, completion_tokens=len(kept) * sampling.n
    )
    for index in range(sampling.n):
        last = index == sampling.n - 1
        yield Finished(reason=reason, index=index, usage=usage if last else None)


def _logprobs(request: Request, at: int, piece: str) -> tuple[TokenText, ...]:
    wanted = request.sampling.logprobs
    if wanted is None:
        return ()
    own = (1000 + at, piece.encode(), -0.5)
    rivals = [(2000 + k, f"alt{k}".encode(), -1.0 - k) for k in range(1, max(wanted, 1))]
    return (
        TokenText(
            token=1000 + at,
            data=piece.encode(),
            logprob=-0.5,
            top=(own, *rivals) if wanted else (),
        ),
    )
