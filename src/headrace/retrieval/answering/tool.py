"""Retrieval as a tool: a `ToolSpec`, and what runs a call of it.

The eyes that search are the caller's, never the arguments': a model that obeys a document can ask
for anything, and is shown what its caller may read. The result is nobody's instruction.
"""

import json
from dataclasses import dataclass, field
from typing import Any, cast

from headrace.errors import InvalidParameter
from headrace.retrieval.answering.options import Search
from headrace.types import (
    Caller,
    Integrity,
    Label,
    Passage,
    SearchRequest,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)

_MOST = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchTool:
    """Of one index and one caller."""

    index: str
    search: Search
    principals: frozenset[str] | None = frozenset()
    """As `SearchRequest.principals`."""
    caller: Caller = field(default_factory=Caller)
    name: str = "search_documents"
    about: str = ""
    """What the index has, for the model to know when to ask."""
    k: int = 5
    """Passages where a call does not say."""

    @property
    def spec(self) -> ToolSpec:
        """As it is offered to a model."""
        about = f" They are about {self.about}." if self.about else ""
        return ToolSpec(
            name=self.name,
            description=f"Search documents and get the passages that match best.{about}",
            parameters={
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "What to look for, in words."},
                    "k": {"type": "integer", "minimum": 1, "maximum": _MOST},
                },
                "required": ["query"],
                "additionalProperties": False,
            },
        )

    async def run(self, call: ToolCallPart) -> ToolResultPart:
        """The passages, numbered; wrong arguments are an answer that says what is wrong."""
        try:
            query, k = _arguments(call.arguments, self.k)
        except InvalidParameter as error:
            return ToolResultPart(
                call_id=call.id, name=call.name, text=error.message, is_error=True
            )
        found = await self.search(
            SearchRequest(
                index=self.index, query=query, k=k, principals=self.principals, caller=self.caller
            )
        )
        shown = [_shown(number, passage) for number, passage in enumerate(found.passages, start=1)]
        label = Label(
            integrity=Integrity.UNTRUSTED,
            readers=self.principals,
            origins=frozenset(passage.chunk.document for passage in found.passages),
        )
        body = {"passages": shown, **({"shortfall": found.shortfall} if found.shortfall else {})}
        text = json.dumps(body, ensure_ascii=False)
        return ToolResultPart(call_id=call.id, name=call.name, text=text, label=label)


def _arguments(arguments: str, k: int) -> tuple[str, int]:
    try:
        found: object = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"the arguments are not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidParameter("the arguments must be an object with `query`")
    given = cast("dict[str, Any]", found)
    unknown = sorted(set(given) - {"query", "k"})
    if unknown:
        raise InvalidParameter(f"there is no argument {unknown[0]!r}; there is: query, k")
    query, wanted = given.get("query"), given.get("k", k)
    if not isinstance(query, str) or not query.strip():
        raise InvalidParameter("`query` must be a text that is not empty")
    if not isinstance(wanted, int) or isinstance(wanted, bool) or not 1 <= wanted <= _MOST:
        raise InvalidParameter(f"`k` must be a whole number from 1 to {_MOST}")
    return query, wanted


def _shown(number: int, passage: Passage) -> dict[str, object]:
    chunk = passage.chunk
    return {
        "number": number,
        "document": chunk.document,
        "title": passage.title,
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
    }
