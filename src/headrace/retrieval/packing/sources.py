"""What is put before a model, and what is left out and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from headrace.types import ChatRequest, DocumentPart, Integrity, Label, Passage


class Order(StrEnum):
    """How sources follow each other."""

    AUTO = "auto"  # by rank up to five, else best at the edges
    RANK = "rank"  # best first
    EDGES = "edges"  # best first, second last, and so on inwards


@dataclass(frozen=True, kw_only=True, slots=True)
class PackOptions:
    """How passages are chosen."""

    order: Order = Order.AUTO
    """Five sources or fewer are all near an edge: moving the second to the end only loses."""
    superseded: bool = False
    """Show passages of documents that a newer one replaces."""
    parents: bool = True
    """Show the larger piece around a passage where it fits."""
    near: float = 0.9
    """Share of a passage's word triples in a better one that makes it a duplicate; above 1 = only
    equal texts are."""
    source_tokens: Mapping[str, int] = field(default_factory=dict[str, int])
    """Name of a source (`Passage.source`) → tokens that its passages may take together."""
    attempts: int = 8
    """How many passages beyond the first that does not fit are tried for the room that is left,
    and how many parents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One numbered source: a span of one document, word for word."""

    number: int
    """From 1, in the order of the prompt."""
    document: str
    start: int
    end: int
    text: str
    """`document.text[start:end]`."""
    title: str = ""
    headings: tuple[str, ...] = ()
    source: str = ""
    modified_s: float = 0.0
    readers: frozenset[str] | None = None
    rank: int = 0
    """Of its best passage, from 0."""
    score: float = 0.0
    """Of its best passage."""
    ordinals: tuple[int, ...] = ()
    """The chunks that it was made of."""
    also: tuple[str, ...] = ()
    """Other documents that say the same, and were left out for it."""
    conflicts: tuple[int, ...] = ()
    """Numbers of sources that say otherwise."""
    superseded_by: str = ""
    cut: bool = False
    """It is shorter than any passage, because no passage fitted."""

    def part(self, *, id: str | None = None) -> DocumentPart:
        """As a model is given it: nobody's instruction, whoever wrote it."""
        label = Label(
            integrity=Integrity.UNTRUSTED,
            readers=self.readers,
            origins=frozenset({self.document}),
        )
        return DocumentPart(
            id=id or str(self.number), text=self.text, title=self.title or None, label=label
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A passage that was found and is not shown."""

    passage: Passage
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A prompt with its sources."""

    request: ChatRequest
    """What is sent: the one whose tokens were counted."""
    sources: tuple[Source, ...]
    tokens: int
    """Of the whole prompt, as the counter counts; never above `budget`."""
    budget: int
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    """What was decided, in sentences."""
