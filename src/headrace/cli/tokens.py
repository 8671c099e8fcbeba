"""`headrace tokens count|inspect|train`: what a text or a chat is to a model, token by token."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from headrace import app
from headrace.cli.report import console, emit_json, progress, settings
from headrace.data import sources
from headrace.errors import DataError, InvalidParameter, UserError
from headrace.tokens import (
    ChatTemplate,
    Rendered,
    Span,
    SpanKind,
    Tokenizer,
    render,
    train_bpe,
    train_unigram,
)
from headrace.types import ChatRequest, ToolChoice
from headrace.wire.json_body import parse
from headrace.wire.openai_chat import render_fields

tokens = typer.Typer(no_args_is_help=True, help="Count, inspect and train tokenizers.")

TextArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts; - reads standard input.")
]
FileOption = Annotated[
    list[Path] | None, typer.Option("--file", "-f", help="A file of text; repeatable.")
]
ChatOption = Annotated[
    Path | None,
    typer.Option(
        help="JSON: an array of messages, or an object with messages and tools; - = stdin."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]
_MODEL_HELP = "Checkpoint directory, tokenizer file or hub id; without it the bundled model."
_BACKGROUNDS = ("on grey23", "on grey30")
_FOREGROUNDS = {"user": "cyan", "assistant": "green", "system": "yellow", "tool": "magenta"}


class Kind(StrEnum):
    """What to train."""

    BPE = "bpe"
    UNIGRAM = "unigram"


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """How long one input is to one model."""

    model: str
    input: str
    tokens: int
    characters: int


@tokens.callback()
def group() -> None:
    """Count, inspect and train tokenizers."""


@tokens.command()
def count(
    ctx: typer.Context,
    text: TextArgument = None,
    file: FileOption = None,
    chat: ChatOption = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help=_MODEL_HELP + " Repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Number of tokens of texts, files or a chat, for one or several models."""
    inputs = list(_inputs(text or [], file or [], none_is_fine=chat is not None))
    request = None if chat is None else _chat(chat)
    counts: list[Count] = []
    for name in model or [""]:
        path = _path(ctx, name)
        tokenizer = Tokenizer.load(path)
        shown = name or app.model_name(settings(ctx))
        for label, content in inputs:
            size = len(tokenizer.encode(content))
            counts.append(Count(model=shown, input=label, tokens=size, characters=len(content)))
        if request is not None:
            made = _render(ctx, tokenizer, path, request)
            counts.append(
                Count(model=shown, input=str(chat), tokens=len(made.ids), characters=len(made.text))
            )
    if as_json:
        emit_json(counts)
        return
    table = Table("model", "input", box=None, pad_edge=False)
    for column in ("tokens", "characters", "characters per token"):
        table.add_column(column, justify="right")
    for item in counts:
        ratio = f"{item.characters / item.tokens:.2f}" if item.tokens else "-"
        table.add_row(
            Text(item.model), Text(item.input), f"{item.tokens:,}", f"{item.characters:,}", ratio
        )
    console().print(table)


@tokens.command()
def inspect(
    ctx: typer.Context,
    text: TextArgument = None,
    file: FileOption = None,
    chat: ChatOption = None,
    model: Annotated[str, typer.Option("--model", "-m", help=_MODEL_HELP)] = "",
    price_per_mtok: Annotated[
        float, typer.Option(min=0, help="US dollars for a million tokens; 0 shows no cost.")
    ] = 0.0,
    ids: Annotated[bool, typer.Option("--ids/--no-ids", help="The id after each token.")] = True,
    as_json: JsonOption = False,
) -> None:
    """The tokens of a text or a rendered chat, in colour, with ids, roles and cost."""
    path = _path(ctx, model)
    tokenizer = Tokenizer.load(path)
    made: list[Rendered] = []
    for _, content in _inputs(text or [], file or [], none_is_fine=chat is not None):
        found = tuple(tokenizer.encode(content))
        span = Span(
            start=0,
            end=len(found),
            message=None,
            part=None,
            role=None,
            kind=SpanKind.CONTENT,
            label=None,
        )
        made.append(Rendered(ids=found, spans=(span,), text=content))
    if chat is not None:
        made.append(_render(ctx, tokenizer, path, _chat(chat)))
    if as_json:
        emit_json([_inspected(tokenizer, item, price_per_mtok) for item in made])
        return
    out = console()
    for item in made:
        for span in item.spans:
            if len(item.spans) > 1:
                out.print(Text(_heading(span), style="dim"))
            out.print(_coloured(tokenizer, item.ids[span.start : span.end], span, ids=ids))
        out.print(Text(_summary(item, price_per_mtok), style="bold"), soft_wrap=True)


@tokens.command()
def train(
    texts: Annotated[
        list[Path],
        typer.Argument(help="Text files, or directories of *.txt, *.txt.gz, *.jsonl, *.jsonl.gz."),
    ],
    out: Annotated[Path, typer.Option(help="Directory to write tokenizer.json into.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens, special ones included.")] = 32_000,
    kind: Annotated[Kind, typer.Option(help="Byte-level BPE or Unigram.")] = Kind.BPE,
    special: Annotated[
        list[str] | None, typer.Option(help="A special token; repeatable, in order of ids.")
    ] = None,
    bos: Annotated[str | None, typer.Option(help="The special token before a prompt.")] = None,
    eos: Annotated[str | None, typer.Option(help="The special token after an answer.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a tokenizer on files and save it for headrace and transformers."""
    named = [*(special or []), *(token for token in (bos, eos) if token is not None)]
    specials = list(dict.fromkeys(named)) or ["<|endoftext|>"]
    learn = train_bpe if kind is Kind.BPE else train_unigram
    with progress(f"training a {kind} tokenizer"):
        made = learn(
            _documents(texts), vocab_size=vocab_size, special_tokens=specials, bos=bos, eos=eos
        )
        made.save(out)
    result = {"path": out, "vocab_size": made.vocab_size, "fingerprint": made.fingerprint}
    if as_json:
        emit_json(result)
    else:
        console().print(f"{out}: {made.vocab_size:,} tokens, sha256 {made.fingerprint[:16]}")


def _path(ctx: typer.Context, name: str) -> Path:
    if name and Path(name).expanduser().exists():
        return Path(name).expanduser()
    return app.model_path(settings(ctx, {"model.path": name} if name else None))


def _inputs(
    texts: Sequence[str], files: Sequence[Path], *, none_is_fine: bool
) -> Iterator[tuple[str, str]]:
    if not (texts or files or none_is_fine):
        if sys.stdin.isatty():
            raise UserError("nothing to read; give a text, --file, --chat, or pipe a text in")
        texts = ["-"]
    for number, text in enumerate(texts, start=1):
        if text == "-":
            yield "stdin", _decoded(sys.stdin.buffer.read(), "stdin")
        else:
            yield f"text {number}" if len(texts) > 1 else "text", text
    for file in files:
        yield str(file), _decoded(file.read_bytes(), str(file))


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidParameter(
            f"{name} is not UTF-8: {error.reason} at byte {error.start}"
        ) from error


def _chat(path: Path) -> ChatRequest:
    data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    if data.lstrip().startswith(b"["):
        data = b'{"messages":' + data + b"}"
    fields = parse(data)
    request = render_fields(fields, model=fields.string("model") or "")
    fields.close()
    return request


def _render(ctx: typer.Context, tokenizer: Tokenizer, path: Path, request: ChatRequest) -> Rendered:
    given = settings(ctx).model.chat_template
    template = ChatTemplate.load(Path(given).expanduser() if given else path)
    return render(
        tokenizer,
        template,
        request.messages,
        tools=request.tools if request.tool_choice is not ToolChoice.NONE else (),
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        variables=request.template_kwargs,
    )


def _documents(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        if path.is_dir():
            yield from (document.text for document in sources.texts(path))
        else:
            try:
                yield path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path} is not UTF-8: {error.reason} at byte {error.start}"
                ) from error


def _heading(span: Span) -> str:
    whose = "" if span.message is None else f" · message {span.message}"
    part = "" if span.part is None else f" part {span.part}"
    role = "" if span.role is None else f" · {span.role}"
    label = "" if span.label is None else f" · {span.label.integrity}"
    return f"[{span.start}, {span.end}) {span.kind}{whose}{part}{role}{label}"


def _coloured(tokenizer: Tokenizer, found: Sequence[int], span: Span, *, ids: bool) -> Text:
    line = Text()
    colour = _FOREGROUNDS.get(span.role or "", "white")
    for index, token in enumerate(found):
        shown = tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")
        visible = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in shown)
        style = f"{colour} {_BACKGROUNDS[index % 2]}"
        if tokenizer.is_control(token):
            style = "bold white on red"
        ends = visible.endswith("\n") and index + 1 < len(found)
        line.append(visible.replace("\n", "⏎"), style=style)
        if ids:
            line.append(f"{token} ", style="dim")
        if ends:
            line.append("\n")
    return line


def _summary(item: Rendered, price_per_mtok: float) -> str:
    control = sum(span.end - span.start for span in item.spans if span.kind is SpanKind.CONTROL)
    words = f"{len(item.ids):,} tokens, {len(item.text):,} characters"
    if control:
        words += f"; {control:,} of the tokens are the template's"
    if price_per_mtok:
        words += f"; ${_cost_usd(item, price_per_mtok)} as a prompt"
    return words


def _cost_usd(item: Rendered, price_per_mtok: float) -> str:
    cost = Decimal(str(price_per_mtok)) * len(item.ids) / 1_000_000
    return f"{cost.normalize():f}"


def _inspected(tokenizer: Tokenizer, item: Rendered, price_per_mtok: float) -> dict[str, object]:
    made: dict[str, object] = {
        "text": item.text,
        "tokens": [
            {
                "id": token,
                "text": tokenizer.token_bytes(token).decode("utf-8", "replace"),
                "control": tokenizer.is_control(token),
            }
            for token in item.ids
        ],
        "spans": item.spans,
    }
    if price_per_mtok:
        made["cost_usd"] = _cost_usd(item, price_per_mtok)
    return made
