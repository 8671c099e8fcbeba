"""A model's text as it streams → reasoning, text and tool calls.

Which marks mean what follows from the chat template's own text: `<think>`; Hermes' and Qwen's
`<tool_call>{json}</tool_call>`; Llama 3's bare `{"name": …, "parameters": …}` and `<|python_tag|>`;
Mistral's `[TOOL_CALLS][…]`. Invariants: the result depends on the text only, never on how it was
cut; a call is reported whole, once it is known to be one; what is not a call after all comes back
as text, character for character. White space that templates put around marks is theirs, so that
rendering the parsed message again gives the same prompt.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from headrace.tokens.call_json import JsonScan, calls_of

_THINK, _END_THINK = "<think>", "</think>"


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedText:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedReasoning:
    """A piece of what the model thought first."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedCall:
    """A whole tool call."""

    call: int
    """Position among the calls of the answer, from 0."""
    id: str
    name: str
    arguments: str
    """JSON text exactly as the model wrote it."""


Parsed: TypeAlias = ParsedText | ParsedReasoning | ParsedCall


class CallSyntax(StrEnum):
    """How a family writes tool calls."""

    NONE = "none"
    HERMES = "hermes"
    LLAMA3 = "llama3"
    MISTRAL = "mistral"

    @staticmethod
    def of(source: str) -> "CallSyntax":
        """The syntax that a chat template renders calls in."""
        if "<tool_call>" in source:
            return CallSyntax.HERMES
        if "[TOOL_CALLS]" in source:
            return CallSyntax.MISTRAL
        if "<|python_tag|>" in source or '{"name": function name, "parameters"' in source:
            return CallSyntax.LLAMA3
        return CallSyntax.NONE


_OPEN = {
    CallSyntax.HERMES: "<tool_call>",
    CallSyntax.MISTRAL: "[TOOL_CALLS]",
    CallSyntax.LLAMA3: "<|python_tag|>",
}
_CLOSE = {CallSyntax.HERMES: "</tool_call>"}


class _State(StrEnum):
    START = "start"  # nothing but white space yet
    REASONING = "reasoning"
    TEXT = "text"
    CALL = "call"


class OutputParser:
    """Parses one answer. `push` text as it comes, `flush` once."""

    def __init__(
        self,
        source: str,
        *,
        tools: bool,
        prompt: str = "",
        new_id: Callable[[], str] = lambda: f"call_{secrets.token_hex(12)}",
    ) -> None:
        """Start before an answer.

        Args:
            source: The chat template's text.
            tools: The request offered tools; otherwise call marks are ordinary text.
            prompt: The rendered prompt; where it ends with `<think>`, reasoning comes first.
            new_id: Makes the id of a call.
        """
        self.syntax = CallSyntax.of(source) if tools else CallSyntax.NONE
        self._thinks = _THINK in source or _END_THINK in source
        self._open = _OPEN.get(self.syntax, "")
        self._close = _CLOSE.get(self.syntax, "")
        self._new_id = new_id
        opened = self._thinks and prompt.rstrip().endswith(_THINK)
        self._state = _State.REASONING if opened else _State.START
        self._buffer = ""
        self._gap = ""  # white space not yet known to be text
        self._trim = opened  # white space at the beginning of a section is the template's
        self._fresh = True  # only calls and separators so far, so a Llama call needs no mark
        self._raw = ""  # a call's text so far, mark included
        self._scan = JsonScan()
        self._calls = 0
        self._out: list[Parsed] = []

    @property
    def marks(self) -> tuple[str, ...]:
        """Strings that must reach `push` even where the tokenizer calls them special tokens."""
        thinking = (_THINK, _END_THINK) if self._thinks else ()
        return thinking + tuple(mark for mark in (self._open, self._close) if mark)

    @property
    def called(self) -> bool:
        """Whether any tool call was found."""
        return self._calls > 0

    def push(self, text: str) -> list[Parsed]:
        """Take more text; give what it settles."""
        self._buffer += text
        while self._advance():
            pass
        return self._taken()

    def flush(self) -> list[Parsed]:
        """Settle the rest, knowing that nothing follows."""
        while self._advance():
            pass
        if self._state is _State.CALL:
            self._end_call(ended=True)
        rest, self._buffer = self._buffer, ""
        match self._state:
            case _State.REASONING:
                self._reason(rest)
            case _:
                self._say(rest)
                if self._gap and not (self._calls and self._fresh):
                    self._emit_text(self._gap)
        self._gap = ""
        return self._taken()

    def _advance(self) -> bool:
        """Consume what can be decided of the buffer; False where more text is needed."""
        match self._state:
            case _State.START:
                return self._start()
            case _State.REASONING:
                return self._reasoning()
            case _State.TEXT:
                return self._text()
            case _State.CALL:
                return self._call()

    def _start(self) -> bool:
        bare = self._buffer.lstrip()
        if self._thinks:
            if bare.startswith(_THINK):
                self._buffer = bare[len(_THINK) :]
                self._state, self._trim = _State.REASONING, True
                return True
            if _THINK.startswith(bare):
                return False
        if not bare:
            return False
        self._state = _State.TEXT
        return True

    def _reasoning(self) -> bool:
        at = self._buffer.find(_END_THINK)
        if at >= 0:
            self._reason(self._buffer[:at])
            self._buffer = self._buffer[at + len(_END_THINK) :]
            self._gap = ""  # line breaks before the mark are the template's
            self._state, self._trim = _State.TEXT, True
            return True
        keep = _partial(self._buffer, _END_THINK)
        done = self._buffer[: len(self._buffer) - keep]
        self._buffer = self._buffer[len(done) :]
        self._reason(done)
        return False

    def _reason(self, text: str) -> None:
        if self._trim:
            text = text.lstrip("\n")
            self._trim = not text
        whole = self._gap + text
        kept = whole.rstrip("\n")
        self._gap = whole[len(kept) :]
        if kept:
            self._out.append(ParsedReasoning(text=kept))

    def _text(self) -> bool:
        if not self._buffer:
            return False
        if self._trim:
            self._buffer = self._buffer.lstrip("\n")
            self._trim = not self._buffer
            return bool(self._buffer)
        if self.syntax is CallSyntax.LLAMA3 and self._fresh:
            bare = self._buffer.lstrip("; \n\t\r" if self._calls else None)
            if not bare:
                return False
            if bare.startswith("{"):
                self._gap += self._buffer[: len(self._buffer) - len(bare)]
                self._begin_call("", bare)
                return True
        at = self._buffer.find(self._open) if self._open else -1
        if at >= 0:
            rest = self._buffer[at + len(self._open) :]
            self._say(self._buffer[:at])
            self._begin_call(self._open, rest)
            return True
        keep = _partial(self._buffer, self._open)
        done = self._buffer[: len(self._buffer) - keep]
        self._buffer = self._buffer[len(done) :]
        self._say(done)
        return False

    def _say(self, text: str) -> None:
        """Text that is no call, all but the white space at its end."""
        if self._trim:
            text = text.lstrip("\n")
            self._trim = not text
        whole = self._gap + text
        kept = whole.rstrip() if self._open else whole
        self._gap = whole[len(kept) :]
        if kept:
            self._emit_text(kept)

    def _emit_text(self, text: str) -> None:
        self._fresh = False
        self._out.append(ParsedText(text=text))

    def _begin_call(self, mark: str, rest: str) -> None:
        self._state = _State.CALL
        self._raw, self._buffer = mark, rest
        self._scan = JsonScan()

    def _call(self) -> bool:
        for index, char in enumerate(self._buffer):
            if not self._scan.complete:
                if not self._scan.take(char):
                    return self._not_a_call(index + 1)
                if self._scan.complete and not self._close:
                    self._raw += self._buffer[: index + 1]
                    self._buffer = self._buffer[index + 1 :]
                    self._end_call(ended=False)
                    return True
                continue
            # the value is complete; only white space and the closing mark may follow
            tail = (self._scan.tail + char).lstrip()
            self._scan.tail = tail
            if tail == self._close:
                self._raw += self._buffer[: index + 1]
                self._buffer = self._buffer[index + 1 :]
                self._end_call(ended=False)
                return True
            if not self._close.startswith(tail):
                return self._not_a_call(index + 1)
        self._raw += self._buffer
        self._buffer = ""
        return False

    def _not_a_call(self, end: int) -> bool:
        self._raw += self._buffer[:end]
        self._buffer = self._buffer[end:]
        raw, self._raw = self._raw, ""
        self._state = _State.TEXT
        self._say(raw)
        return True

    def _end_call(self, *, ended: bool) -> None:
        raw, self._raw = self._raw, ""
        self._state = _State.TEXT
        body = raw.removeprefix(self._open)
        if self._scan.complete and (calls := calls_of(body[: self._scan.size])):
            rest = body[self._scan.size :] if ended else ""
            self._gap = rest if rest.strip() else ""
            for name, arguments in calls:
                self._out.append(
                    ParsedCall(call=self._calls, id=self._new_id(), name=name, arguments=arguments)
                )
                self._calls += 1
            self._fresh = True
        else:
            self._say(raw)

    def _taken(self) -> list[Parsed]:
        out, self._out = self._out, []
        return out


def _partial(text: str, mark: str) -> int:
    """How many characters at the end of `text` may begin `mark`."""
    for size in range(min(len(mark) - 1, len(text)), 0, -1):
        if mark.startswith(text[-size:]):
            return size
    return 0
