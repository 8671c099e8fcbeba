"""A question → other ways of asking the same, by a chat model."""

from headrace.types import (
    Backend,
    Caller,
    ChatRequest,
    Message,
    Role,
    SamplingParams,
    TextPart,
    collect,
)

_ASKS = (
    "Rewrite a search query in {count} other ways that would find the same: other words, the same "
    "meaning. One a line, nothing else."
)
_LONGEST = 400


class Phraser:
    """Asks a chat model."""

    def __init__(self, backend: Backend, model: str) -> None:
        self._backend = backend
        self._model = model

    async def phrase(self, query: str, count: int, caller: Caller, trace: str) -> tuple[str, ...]:
        """At most `count` phrasings, none of them the query itself."""
        request = ChatRequest(
            model=self._model,
            messages=(
                Message(role=Role.SYSTEM, parts=(TextPart(text=_ASKS.format(count=count)),)),
                Message(role=Role.USER, parts=(TextPart(text=query),)),
            ),
            sampling=SamplingParams(temperature=0.0, max_tokens=64 * count),
            caller=caller,
            trace=trace,
        )
        answer = await collect(self._backend.stream(request))
        lines = (
            line.strip().lstrip("-*0123456789.) ").strip()
            for line in answer.choices[0].text.splitlines()
        )
        kept = dict.fromkeys(line[:_LONGEST] for line in lines if line and line != query)
        return tuple(kept)[:count]
