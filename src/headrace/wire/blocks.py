"""The deltas of an answer become blocks in order: text, reasoning, calls.

Anthropic's messages and OpenAI's responses are lists of such blocks, each opened, filled and closed
before the next. Invariants: a block of text or reasoning is never empty; every call has an id and
a name; deltas of a call that was closed already are an `UpstreamError`; a citation belongs to the
text before it.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from headrace.errors import UpstreamError
from headrace.types import Citation, ReasoningDelta, TextDelta, TokenText, ToolCallDelta


class BlockKind(StrEnum):
    TEXT = "text"
    REASONING = "reasoning"
    CALL = "call"


@dataclass(slots=True, kw_only=True)
class Block:
    """One block as it grows."""

    kind: BlockKind
    at: int
    """Its place in the answer."""
    pieces: list[str] = field(default_factory=list[str])
    """Of text, of reasoning, or of a call's arguments."""
    id: str = ""
    name: str = ""
    call: int = -1
    signature: str = ""
    redacted: bool = False
    logprobs: list[TokenText] = field(default_factory=list[TokenText])
    base: int = 0
    """Characters of text in the blocks before it."""
    citations: list[Citation] = field(default_factory=list[Citation])

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What one delta did."""

    block: Block
    closed: Block | None = None
    """The block before, now whole."""
    opened: bool = False


class Blocks:
    """`push` the deltas of one choice, and `cite`, then `close`."""

    def __init__(self, *, cut_at_citations: bool = False) -> None:
        """
        Args:
            cut_at_citations: Text after a citation is another block.
        """
        self.all: list[Block] = []
        self._open: Block | None = None
        self._cut = cut_at_citations
        self._characters = 0

    def push(self, event: TextDelta | ReasoningDelta | ToolCallDelta) -> Growth | None:
        """Take a delta; None where nothing can be seen of it yet.

        Raises: UpstreamError for a call without a name, or one taken up again.
        """
        match event:
            case ToolCallDelta():
                growth = self._call(event)
                growth.block.pieces.append(event.arguments)
            case TextDelta():
                if not event.text and not event.logprobs:
                    return None
                growth = self._same(BlockKind.TEXT)
                growth.block.pieces.append(event.text)
                self._characters += len(event.text)
                growth.block.logprobs += event.logprobs
            case ReasoningDelta():
                if not event.text and not event.signature:
                    return None
                growth = self._same(BlockKind.REASONING)
                growth.block.pieces.append(event.text)
                growth.block.signature += event.signature
                growth.block.redacted = event.redacted
        return growth

    def cite(self, citation: Citation) -> Block | None:
        """Add it to the text that is open, which it ends; None where no text is."""
        if self._open is None or self._open.kind is not BlockKind.TEXT:
            return None
        self._open.citations.append(citation)
        return self._open

    def close(self) -> Block | None:
        """The answer has ended: its last block, if one was open."""
        last, self._open = self._open, None
        return last

    def _same(self, kind: BlockKind) -> Growth:
        current = self._open
        # A signature ends the reasoning that it signs; what follows is another block.
        signed = current is not None and current.signature != ""
        cited = current is not None and self._cut and bool(current.citations)
        if current is not None and current.kind is kind and not signed and not cited:
            return Growth(block=current)
        return self._next(Block(kind=kind, at=len(self.all), base=self._characters))

    def _call(self, event: ToolCallDelta) -> Growth:
        current = self._open
        if current is not None and current.call == event.call:
            return Growth(block=current)
        if any(block.call == event.call for block in self.all):
            raise UpstreamError(f"the model went back to call {event.call} after another block")
        if not event.id or not event.name:
            raise UpstreamError(f"the model's call {event.call} began without an id or a name")
        return self._next(
            Block(
                kind=BlockKind.CALL,
                at=len(self.all),
                id=event.id,
                name=event.name,
                call=event.call,
            )
        )

    def _next(self, block: Block) -> Growth:
        before, self._open = self._open, block
        self.all.append(block)
        return Growth(block=block, closed=before, opened=True)
