"""What people and models say: messages, their parts, and whom each may be trusted like."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class Role(StrEnum):
    """Who speaks. `developer` is OpenAI's newer name for `system`; templates decide on it."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Integrity(StrEnum):
    """How far a span of text may be believed to carry its author's instructions."""

    SYSTEM = "system"  # the operator wrote it
    USER = "user"  # the caller wrote it
    MODEL = "model"  # a model wrote it
    UNTRUSTED = "untrusted"  # a tool, a document, the web


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """Trust label of a span: what it may command, who may read it, where it came from."""

    integrity: Integrity = Integrity.USER
    readers: frozenset[str] | None = None
    """Principals who may see it; None = everyone who may see the conversation."""
    origins: frozenset[str] = frozenset()
    """Documents, tools or URLs it derives from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPart:
    text: str
    label: Label = Label()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePart:
    media_type: str
    data: bytes | None = None
    url: str | None = None
    label: Label = Label()


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioPart:
    media_type: str
    data: bytes
    label: Label = Label()


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentPart:
    """A source put before the model; cited by `id`."""

    id: str
    text: str
    """Empty where the document is `data` or at `url`."""
    title: str | None = None
    media_type: str = "text/plain"
    data: bytes | None = None
    """A file (a PDF) that only a provider can read."""
    url: str | None = None
    label: Label = Label(integrity=Integrity.UNTRUSTED)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCallPart:
    id: str
    name: str
    arguments: str
    """JSON text exactly as the model wrote it; it may be invalid."""
    label: Label = Label(integrity=Integrity.MODEL)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolResultPart:
    call_id: str
    text: str
    name: str | None = None
    is_error: bool = False
    label: Label = Label(integrity=Integrity.UNTRUSTED)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReasoningPart:
    text: str
    signature: str = ""
    """A provider's proof that it wrote this; sent back to it unchanged, read by nobody else."""
    redacted: bool = False
    """The text is withheld: `signature` holds it enciphered."""
    label: Label = Label(integrity=Integrity.MODEL)


Part: TypeAlias = (
    TextPart | ImagePart | AudioPart | DocumentPart | ToolCallPart | ToolResultPart | ReasoningPart
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    role: Role
    parts: tuple[Part, ...]
    name: str | None = None

    @property
    def text(self) -> str:
        """The text parts, joined with nothing between them."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))
