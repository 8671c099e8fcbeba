"""Messages → token ids and spans: the one renderer of training, counting and serving.

Invariants: for content without special-token strings the ids are those of transformers'
`apply_chat_template`; a control token stands only where the template's own text spells it, whatever
the content says; spans tile the ids in order; a token belongs where its first character came from.
Where the template hides whose text a control token is made of, it is refused rather than guessed.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from headrace.errors import InvalidParameter, TemplateError, TokenizerError
from headrace.tokens import layout
from headrace.tokens.conversation import Conversation, convert, variables
from headrace.tokens.formats import read_json
from headrace.tokens.provenance import LITERAL, Origin, Traced, concat, joined, runs_of, traced
from headrace.tokens.template import CompiledTemplate, Meter
from headrace.tokens.tokenizer import Piece, Tokenizer
from headrace.types import Label, Message, Role, ToolSpec

_CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "  # ends with a space, to see whether the template trims


class SpanKind(StrEnum):
    """Who wrote a run of tokens."""

    CONTROL = "control"  # the template: control tokens, role names, line breaks
    CONTENT = "content"  # a message part, a tool specification or a template variable


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Tokens `[start, end)` of one origin."""

    start: int
    end: int
    message: int | None
    """Whose turn it is; None = between turns, or tools and variables."""
    part: int | None
    """The part it came from; None = control, or made of several parts."""
    role: Role | None
    kind: SpanKind
    label: Label | None
    """Of content; None = control."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A prompt, and where each token of it came from."""

    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    text: str


class ChatTemplate:
    """A checkpoint's chat template, or several by name (`default`, `tool_use`)."""

    def __init__(self, source: str | Mapping[str, str], *, limit_s: float = 10.0) -> None:
        """Compile.

        Args:
            source: Jinja text; a mapping names several, of which `default` is needed.
            limit_s: How long one rendering may take.

        Raises:
            TemplateError: It does not compile, or there is no default.
        """
        sources = {"default": source} if isinstance(source, str) else dict(source)
        if "default" not in sources:
            raise TemplateError(
                f"the chat templates {sorted(sources)} have no `default`; name the one to use with "
                "--set model.chat_template=FILE"
            )
        self.sources: Mapping[str, str] = sources
        self.limit_s = limit_s
        self._compiled = {name: CompiledTemplate(text) for name, text in sources.items()}

    @classmethod
    def load(cls, path: Path) -> "ChatTemplate":
        """Read the template of a checkpoint directory, or a Jinja file.

        Raises:
            TemplateError: There is none; the message says how to give one.
        """
        sources = _sources(path)
        if not sources:
            raise TemplateError(
                f"{path} has no chat template (chat_template.jinja, or chat_template in "
                "tokenizer_config.json), so messages cannot be rendered; give one with "
                "--set model.chat_template=FILE, or send a raw prompt to /v1/completions"
            )
        return cls(sources)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the sources, in hexadecimal."""
        return hashlib.sha256(repr(sorted(self.sources.items())).encode()).hexdigest()

    def name_for(self, *, tools: bool) -> str:
        """Which of the named templates a request with or without tools is rendered by."""
        return "tool_use" if tools and "tool_use" in self.sources else "default"

    def source_for(self, *, tools: bool) -> str:
        """The text of that template."""
        return self.sources[self.name_for(tools=tools)]

    def compiled_for(self, *, tools: bool) -> CompiledTemplate:
        """The code of that template."""
        return self._compiled[self.name_for(tools=tools)]


def render(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    tools: Sequence[ToolSpec] = (),
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> Rendered:
    """Render a conversation.

    Args:
        tokenizer: Gives ids, and `bos_token` and the like to the template.
        template: The checkpoint's.
        messages: At least one.
        tools: Functions the model may call.
        add_generation_prompt: End with what begins the assistant's turn.
        continue_final_message: End inside the last message, for the model to go on with.
        variables: Further variables of the template.

    Raises:
        TemplateError: The template refuses the conversation, fails, or hides where text came from.
        InvalidParameter: Empty messages, a lone surrogate, or both endings asked for.
        UnsupportedParameter: A part that is not text.
    """
    if add_generation_prompt and continue_final_message:
        raise InvalidParameter(
            "`add_generation_prompt` and `continue_final_message` exclude each other; "
            "set one to false",
            param="continue_final_message",
        )
    conversation = convert(messages, tools, source=template.source_for(tools=bool(tools)))
    tag = Origin(literal=True)
    if continue_final_message:
        _append_tag(conversation.messages[-1], tag)
    text = _rendered_text(
        tokenizer, template, conversation, messages, variables or {}, add_generation_prompt
    )
    if continue_final_message:
        text = _cut_at_tag(text, tag)
    pieces = _encode(tokenizer, text)
    return Rendered(
        ids=tuple(piece.token for piece in pieces),
        spans=tuple(_spans(text, pieces)),
        text=str.__str__(text),
    )


def _rendered_text(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    conversation: Conversation,
    messages: Sequence[Message],
    values: Mapping[str, Any],
    add_generation_prompt: bool,
) -> Traced:
    meter = Meter(
        messages=conversation.message_of,
        containers=conversation.containers,
        limit_s=template.limit_s,
    )
    context: dict[str, Any] = {
        key: traced(content, LITERAL)
        for key, value in tokenizer.config.items()
        if key.endswith("_token") and (content := layout.content_of(value)) is not None
    }
    context |= {
        "messages": conversation.messages,
        "tools": conversation.tools,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    context |= _given(values, context, conversation)
    turns = [
        (
            Origin(literal=True, message=index, role=message.role),
            Origin(
                known=False,
                message=index,
                role=message.role,
                label=joined([part.label for part in message.parts]),
            ),
        )
        for index, message in enumerate(messages)
    ]
    chunks: list[Traced] = []
    for chunk in template.compiled_for(tools=bool(conversation.tools)).render(context, meter):
        if meter.message is None:
            chunks.append(Traced(chunk))
            continue
        # What the template says while it is at a message belongs to that message's turn.
        ours, unsure = turns[meter.message]
        chunks.append(
            Traced(
                chunk,
                tuple(
                    run._replace(origin=ours if run.origin is LITERAL else unsure)
                    if run.origin is LITERAL
                    or (not run.origin.known and run.origin.message is None)
                    else run
                    for run in runs_of(chunk)
                ),
            )
        )
    return concat(chunks)


def _given(
    values: Mapping[str, Any], context: Mapping[str, Any], conversation: Conversation
) -> dict[str, Any]:
    for name in values:
        if name in ("messages", "tools", "add_generation_prompt") or name.startswith("_"):
            raise InvalidParameter(
                f"template variable `{name}` is set by the server; send another name",
                param="chat_template_kwargs",
            )
    return variables(values, conversation)


def _append_tag(message: dict[str, Any], tag: Origin) -> None:
    content = message["content"]
    mark = traced(_CONTINUE, tag)
    if isinstance(content, list):
        if not content:
            raise InvalidParameter("the final message has no text to continue", param="messages")
        content[-1]["text"] = concat((content[-1]["text"], mark))
    else:
        message["content"] = concat((content, mark))


def _cut_at_tag(text: Traced, tag: Origin) -> Traced:
    end = len(text)
    for run in reversed(text.runs):
        start = end - run.size
        if run.origin is tag:
            # transformers' rule: a template that trims the tag's space trims what it continues
            whole = text.startswith(_CONTINUE, start)
            return text[:start] if whole else text[:start].rstrip()
        end = start
    raise TemplateError(
        "the chat template drops the end of the final message, so it cannot be continued; set "
        "`continue_final_message` to false"
    )


def _encode(tokenizer: Tokenizer, text: Traced) -> list[Piece]:
    """Ids of a rendered text; control tokens only where every character is the template's."""
    pieces = tokenizer.pieces(text)
    ours = _ours(text)
    forged = False
    for piece in pieces:
        if not tokenizer.is_control(piece.token):
            continue
        start, end = _core(tokenizer, text, piece)
        if not all(ours[start:end]):
            forged = True
            if any(not run.origin.known for run in text[start:end].runs):
                raise TemplateError(
                    f"the chat template hides whether {text[start:end]!r} is its own text or "
                    "content; a control token is not guessed"
                )
    return _encode_apart(tokenizer, text, ours) if forged else pieces


def _encode_apart(tokenizer: Tokenizer, text: Traced, ours: bytes) -> list[Piece]:
    """As `Tokenizer.pieces`, with the control tokens found by the template's characters alone."""
    rules = {str(token["content"]): token for token in tokenizer.added_tokens}
    names = sorted(tokenizer.controls, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, names)))
    pieces: list[Piece] = []
    at = 0
    for run in re.finditer(rb"\x01+", ours):
        for found in pattern.finditer(text, run.start(), run.end()):
            start, end = found.span()
            if start < at:
                continue  # swallowed as white space beside the last one
            rule = rules[found.group()]
            if rule["lstrip"]:
                start -= len(text[at:start]) - len(text[at:start].rstrip())
            if rule["rstrip"]:
                end += len(text[end:]) - len(text[end:].lstrip())
            if at < start:
                pieces.extend(tokenizer.plain_pieces(str.__str__(text[at:start]), offset=at))
            pieces.append(Piece(rule["id"], start, end))
            at = end
    if at < len(text):
        pieces.extend(tokenizer.plain_pieces(str.__str__(text[at:]), offset=at))
    return pieces


def _core(tokenizer: Tokenizer, text: str, piece: Piece) -> tuple[int, int]:
    """Where a control token's own characters are; it may have swallowed white space beside them."""
    spelled = tokenizer.token_bytes(piece.token).decode()
    at = text.find(spelled, piece.start, piece.end)
    return (at, at + len(spelled)) if at >= 0 else (piece.start, piece.end)


def _ours(text: Traced) -> bytes:
    """One byte a character: 1 where it is the template's."""
    return b"".join((b"\x01" if run.origin.literal else b"\x00") * run.size for run in text.runs)


def _spans(text: Traced, pieces: Sequence[Piece]) -> Iterator[Span]:
    runs = text.runs
    number, begin = 0, 0  # the run under the cursor and where it begins
    first, current = 0, None
    for index, piece in enumerate(pieces):
        where = min(piece.start, len(text) - 1)
        while where >= begin + runs[number].size:
            begin += runs[number].size
            number += 1
        while where < begin:  # tokens of one character's bytes may step back
            number -= 1
            begin -= runs[number].size
        origin = runs[number].origin
        if current is not None and origin is not current:
            yield _span(first, index, current)
            first = index
        current = origin
    if current is not None:
        yield _span(first, len(pieces), current)


def _span(start: int, end: int, origin: Origin) -> Span:
    kind = SpanKind.CONTROL if origin.literal else SpanKind.CONTENT
    return Span(
        start=start,
        end=end,
        message=origin.message,
        part=origin.part,
        role=origin.role,
        kind=kind,
        label=None if origin.literal else origin.label,
    )


def _sources(path: Path) -> dict[str, str]:
    if path.is_file():
        return {"default": _read(path)}
    sources: dict[str, str] = {}
    try:
        given = read_json(path / "tokenizer_config.json").get("chat_template")
    except TokenizerError as error:
        raise TemplateError(error.message) from error
    if isinstance(given, str):
        sources["default"] = given
    elif isinstance(given, list):
        for entry in given:
            if isinstance(entry, dict) and isinstance(entry.get("template"), str):
                sources[str(entry.get("name", "default"))] = entry["template"]
    if (path / "chat_template.jinja").is_file():
        sources["default"] = _read(path / "chat_template.jinja")
    for file in sorted((path / "additional_chat_templates").glob("*.jinja")):
        sources[file.stem] = _read(file)
    return sources


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"cannot read the chat template {path}: {error}") from error
