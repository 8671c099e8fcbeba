"""What goes into a parser and what comes out: a text with its structure, or one reason why not."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from headrace.types import Integrity, SourceDocument
from headrace.types.retrieval import Scalar


class Unreadable(StrEnum):
    """Why a document is not searchable."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"  # a kind that no parser here reads
    ENCRYPTED = "encrypted"
    CORRUPT = "corrupt"
    BOMB = "bomb"  # would unpack to far more than it is
    NO_TEXT = "no_text"  # whole, but nothing in it is text
    GARBLED = "garbled"
    ENCODING = "encoding"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    CRASHED = "crashed"
    MISSING_EXTRA = "missing_extra"
    ACCESS = "access"  # who may read it cannot be told
    UNAVAILABLE = "unavailable"  # its source did not give it


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A document that cannot be read. Nothing else stops for it."""

    reason: Unreadable
    detail: str
    """A sentence with the value, the limit and, where there is one, the way out."""


class CannotRead(Exception):
    """Raised by parsers; becomes a `Refusal`."""

    def __init__(self, reason: Unreadable, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(reason=reason, detail=detail)


@dataclass(frozen=True, kw_only=True, slots=True)
class Raw:
    """A document as its source has it."""

    data: bytes
    name: str
    """Its file's name, with the suffix that says what it is meant to be."""
    media_type: str = ""
    """What its source calls it; the content is believed more."""
    encoding: str = ""
    """What its source says of its text's encoding; checked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a parser made of it."""

    text: str
    """Headings as `#` lines, tables as `|` rows, lists as `-` items, where the kind has them."""
    media_type: str
    title: str = ""
    modified_s: float = 0.0
    """As the document itself says; 0 = it does not."""
    metadata: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    notes: tuple[str, ...] = ()
    """What was dropped, guessed or looks wrong, in sentences."""
    flags: frozenset[str] = frozenset()
    """The same for filters: hidden_text, control_tokens, bidi, guessed_encoding,
    pages_without_text, active_content, attachments."""


def document(
    id: str,
    reading: Reading,
    *,
    source: str = "",
    title: str = "",
    modified_s: float = 0.0,
    readers: frozenset[str] | None = None,
    integrity: Integrity = Integrity.UNTRUSTED,
    metadata: Mapping[str, Scalar] | None = None,
) -> SourceDocument:
    """The document of an index; what its source knows of it goes before what it says of itself."""
    flags: dict[str, Scalar] = {f"flag_{name}": True for name in sorted(reading.flags)}
    return SourceDocument(
        id=id,
        text=reading.text,
        source=source,
        title=title or reading.title,
        media_type=reading.media_type,
        modified_s=modified_s or reading.modified_s,
        readers=readers,
        integrity=integrity,
        metadata={**reading.metadata, **flags, **(metadata or {})},
    )
