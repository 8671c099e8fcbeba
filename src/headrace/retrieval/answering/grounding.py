"""An index and a model, as a request joins them → the backend that answers from it."""

from collections.abc import Awaitable, Callable, Mapping

from headrace.errors import InvalidParameter
from headrace.retrieval.answering.asking import Rewriter
from headrace.retrieval.answering.context import WithContext
from headrace.retrieval.answering.options import Answering
from headrace.retrieval.answering.styles import StyleName
from headrace.types import (
    Backend,
    Grounding,
    IndexSpec,
    SearchRequest,
    SearchResult,
    SourceDocument,
)


class Grounds:
    """Makes such backends; what `headrace.retrieval.library.Library` takes as `ground`."""

    def __init__(self, styles: Mapping[str, StyleName] | None = None) -> None:
        """
        Args:
            styles: Models that are asked otherwise than by rules, by the names they are served as.
        """
        self._styles = dict(styles or {})

    def __call__(
        self,
        search: Callable[[SearchRequest], Awaitable[SearchResult]],
        fetch: Callable[[str], Awaitable[SourceDocument | None]],
        spec: IndexSpec,
        how: Grounding,
        backend: Backend,
    ) -> Backend:
        """
        Raises: InvalidParameter: A style that is none, or escalation to nobody.
        """
        return WithContext(
            backend,
            Answering(
                index=spec.name,
                owner=spec.owner,
                search=search,
                fetch=fetch,
                principals=how.principals,
                filter=how.filter,
                k=how.k or spec.k,
                style=_style(how.style),
                styles={} if how.style else self._styles,
                rewrite=Rewriter(backend) if how.rewrite else None,
                abstain_below=how.abstain_below or None,
                policy=how.policy or spec.policy,
                escalate=how.escalate,
                context_tokens=how.context_tokens,
                budget_tokens=how.budget_tokens or spec.budget_tokens,
                counter=how.counter,
            ),
        )


def _style(name: str) -> StyleName:
    known = [style.value for style in StyleName]
    if name and name not in known:
        raise InvalidParameter(f"`style` {name!r} is not one of {', '.join(known)}", param="style")
    return StyleName(name) if name else StyleName.GENERAL
