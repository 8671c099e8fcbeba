"""A served model → the same model, answering from an index with citations."""

from dataclasses import replace

from headrace.errors import InvalidParameter, ModelNotFound
from headrace.gateway.calls import find, may_use
from headrace.gateway.codec import TextCodec
from headrace.gateway.flight import Flight
from headrace.gateway.index_money import errand, question_tokens
from headrace.gateway.index_rights import index_owner, need_indexes, searching_as
from headrace.gateway.services import Served, ServedEmbedder, Services
from headrace.types import (
    Caller,
    ChatRequest,
    CitationPolicy,
    Embedder,
    Grounding,
    IndexSpec,
    Target,
    TokenCounter,
)
from headrace.wire.index_calls import Ask

UNKNOWN_CONTEXT = 8192
"""Of a model that says nothing of its context: half of it is for sources."""
_CALLS = {CitationPolicy.RETRY: 2}


class Rendered:
    """A `TokenCounter` of a model whose renderer is ours: exactly what its engine reads."""

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec

    async def count(self, request: ChatRequest) -> int:
        """As `TokenCounter.count`."""
        return len(self._codec.render(request).ids)


async def grounded(
    services: Services, flight: Flight, caller: Caller, index: str, asked: Ask
) -> Served:
    """The model that answers a question to an index.

    Raises: NotFound: There is no such index; ModelNotFound: No model, or none is named.
    """
    indexes = need_indexes(services)
    spec = await indexes.spec(index, index_owner(caller))
    served = find(services, asked.model or spec.model or _only(services, caller), caller)
    larger = _larger(services, caller, asked, asked.policy or spec.policy, served)
    how = Grounding(
        index=index,
        principals=await searching_as(services, caller, index, asked.principals),
        filter=asked.filter,
        k=asked.k,
        budget_tokens=asked.budget_tokens,
        policy=asked.policy,
        escalate=None if larger is None else larger.chat,
        context_tokens=served.card.context_tokens,
        counter=counter_of(served),
    )

    def embedder(model: ServedEmbedder) -> Embedder:
        return model.embedder  # what it makes is of the answer's hold

    mine = errand(services, flight, caller, embedder)
    question = asked.messages[-1].text
    return replace(
        served,
        chat=indexes.grounded(how, served.chat, mine),
        candidates=(
            *_targets(served),
            *(() if larger is None else _targets(larger)),
            *(model.target for model in services.embedders.values()),
        ),
        calls=served.calls * calls_of(spec, asked.policy) + (0 if larger is None else larger.calls),
        added_tokens=sources_tokens(spec, asked.budget_tokens, served) + question_tokens(question),
    )


def _larger(
    services: Services, caller: Caller, asked: Ask, policy: CitationPolicy, served: Served
) -> Served | None:
    """Who is asked where an answer fails; None = nobody.

    Raises: InvalidParameter: The policy needs one and none is named, or names one to no effect;
        ModelNotFound.
    """
    if policy is not CitationPolicy.ESCALATE:
        if asked.escalate:
            raise InvalidParameter(
                f"`escalate` has no effect with policy {policy.value}; send policy escalate, or "
                "leave it out",
                param="escalate",
            )
        return None
    name = served.card.name
    others = [model for model in services.models if model != name and may_use(caller, model)]
    if not asked.escalate or asked.escalate == name:
        why = "is missing" if not asked.escalate else f"is {name!r}, which answers first"
        raise InvalidParameter(
            f"`escalate` {why}: policy escalate asks another model where an answer of {name!r} "
            f"fails; there is: {', '.join(others[:20]) or 'none: choose retry, strike or refuse'}",
            param="escalate",
        )
    return find(services, asked.escalate, caller)


def _targets(served: Served) -> tuple[Target, ...]:
    """Whose prices may be paid."""
    return served.candidates or (Target(provider="", model=served.card.name),)


def counter_of(served: Served) -> TokenCounter | None:
    """What counts a prompt of it; None = nobody can."""
    return served.counter if served.codec is None else Rendered(served.codec)


def calls_of(spec: IndexSpec, policy: CitationPolicy | None) -> int:
    """How often the model may be asked for one answer."""
    return _CALLS.get(policy or spec.policy, 1)


def sources_tokens(spec: IndexSpec, budget_tokens: int | None, served: Served) -> int:
    """The most that sources may add to a prompt."""
    context = served.card.context_tokens or UNKNOWN_CONTEXT
    return budget_tokens or spec.budget_tokens or context // 2


def _only(services: Services, caller: Caller) -> str:
    names = [name for name in services.models if may_use(caller, name)]
    if len(names) != 1:
        raise ModelNotFound(
            f"`model` is missing, and there are {len(names)}: {', '.join(names[:20]) or 'none'}; "
            "name one",
            param="model",
        )
    return names[0]
