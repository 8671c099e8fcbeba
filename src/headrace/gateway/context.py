"""A route that is answered from an index: `[routes.NAME.context]` → a stage before its model.

The principals of a search are its caller's own, whoever set the route up: a route lends its index,
never its eyes.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace

from headrace.config import ContextSettings, RouteSettings
from headrace.errors import ConfigError, ModelNotFound
from headrace.gateway.caching.cached import Snapshot
from headrace.gateway.http import closing
from headrace.gateway.index_answers import UNKNOWN_CONTEXT, counter_of
from headrace.gateway.index_rights import own_principals
from headrace.gateway.services import Served, ServedEmbedder
from headrace.types import (
    Backend,
    ChatRequest,
    CitationPolicy,
    Embedder,
    Errand,
    Event,
    Grounding,
    Indexes,
    IndexOwner,
)

_LONGEST_QUESTION = 32_768
"""Tokens of a question whose vector is made are no more than its bytes, which this bounds."""
STYLES = ("general", "quote", "slots")
"""How a model may be asked; `headrace.retrieval.answering.styles` has what each is."""
_ONCE = (CitationPolicy.ANNOTATE, CitationPolicy.STRIKE, CitationPolicy.REFUSE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """Models with their context, and what the names of their kept answers cover."""

    models: dict[str, Served]
    snapshots: dict[str, Snapshot]


def with_context(
    models: Mapping[str, Served],
    routes: Mapping[str, RouteSettings],
    indexes: Indexes | None,
    embedders: Mapping[str, ServedEmbedder],
) -> Fitted:
    """Put the stage before every model whose route names an index.

    Raises: ConfigError: No model makes vectors here, or a policy that is none.
    """
    made, snapshots = dict(models), dict[str, Snapshot]()
    for name, route in routes.items():
        context = route.context
        if not context.index:
            if context != ContextSettings():
                raise ConfigError(f"routes.{name}.context has no effect without `index`")
            continue
        if indexes is None:
            raise ConfigError(
                f"routes.{name}.context.index = {context.index!r}: no model makes vectors here; "
                "set embeddings.path"
            )
        larger = _escalation(name, context, models)
        how = _grounding(name, context, models[name], larger)
        stage = InContext(models[name].chat, indexes, embedders, context, how)
        made[name] = replace(
            models[name],
            chat=stage,
            calls=models[name].calls * ((1 if context.policy in _ONCE else 2) + context.rewrite),
            candidates=(
                *models[name].candidates,
                *(() if larger is None else larger.candidates),
                *(model.target for model in embedders.values()),
            ),
            added_tokens=(stage.budget_tokens or 0) + _LONGEST_QUESTION,
        )
        snapshots[name] = stage.snapshot
    return Fitted(models=made, snapshots=snapshots)


class InContext:
    """Before one model of one route."""

    def __init__(
        self,
        backend: Backend,
        indexes: Indexes,
        embedders: Mapping[str, ServedEmbedder],
        context: ContextSettings,
        how: Grounding,
    ) -> None:
        self._backend = backend
        self._indexes = indexes
        self._embedders = embedders
        self._owner = IndexOwner(context.org, context.team)
        self.how = how
        self.budget_tokens = how.budget_tokens

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`."""
        caller = request.caller
        errand = Errand(
            embedder=self._embedder,
            caller=caller,
            owner=self._owner,
            trace=request.trace,
            trail=request.trail,
        )
        how = replace(self.how, principals=own_principals(caller))
        grounded = self._indexes.grounded(how, self._backend, errand)
        async with closing(grounded.stream(request)) as events:
            async for event in events:
                yield event

    async def snapshot(self, request: ChatRequest) -> str:
        """Of the documents, and of whose eyes see them."""
        seen = await self._indexes.snapshot(self.how.index, self._owner)
        return "\n".join([seen, *sorted(own_principals(request.caller))])

    def _embedder(self, name: str) -> Embedder:
        wanted = name or next(iter(self._embedders), "")
        if wanted not in self._embedders:
            known = ", ".join(self._embedders) or "none"
            raise ModelNotFound(f"the model {wanted!r} is not served here; there is: {known}")
        return self._embedders[wanted].embedder


def _escalation(
    route: str, context: ContextSettings, models: Mapping[str, Served]
) -> Served | None:
    """The model that an answer which fails goes on to."""
    wanted = context.policy == CitationPolicy.ESCALATE
    if not wanted and not context.escalate:
        return None
    if not wanted:
        raise ConfigError(
            f'routes.{route}.context.escalate has no effect without policy = "escalate"'
        )
    if context.escalate == route or context.escalate not in models:
        known = ", ".join(name for name in models if name != route) or "none"
        raise ConfigError(
            f"routes.{route}.context.escalate = {context.escalate!r} is no other model; "
            f"there is: {known}"
        )
    return models[context.escalate]


def _grounding(
    route: str, context: ContextSettings, served: Served, larger: Served | None
) -> Grounding:
    known = [item.value for item in CitationPolicy]
    if context.policy and context.policy not in known:
        raise ConfigError(
            f"routes.{route}.context.policy = {context.policy!r} is not one of {', '.join(known)}"
        )
    if context.style not in ("", *STYLES):
        raise ConfigError(
            f"routes.{route}.context.style = {context.style!r} is not one of {', '.join(STYLES)}"
        )
    if not 0.0 <= context.abstain_below <= 1.0:
        raise ConfigError(
            f"routes.{route}.context.abstain_below = {context.abstain_below} is not from 0 to 1"
        )
    for field in ("k", "budget_tokens"):
        if getattr(context, field) < 0:
            raise ConfigError(
                f"routes.{route}.context.{field} = {getattr(context, field)} is negative"
            )
    return Grounding(
        index=context.index,
        k=context.k or None,
        budget_tokens=context.budget_tokens or (served.card.context_tokens or UNKNOWN_CONTEXT) // 2,
        policy=CitationPolicy(context.policy) if context.policy else None,
        style=context.style,
        rewrite=context.rewrite,
        abstain_below=context.abstain_below,
        escalate=None if larger is None else larger.chat,
        context_tokens=served.card.context_tokens,
        counter=counter_of(served),
    )
