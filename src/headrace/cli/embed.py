"""`headrace embed`: texts, or a JSON-lines file of them → their vectors as JSON lines."""

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, TextIO

import typer

from headrace.app import MINILM, open_embedder
from headrace.cli import report
from headrace.config import Settings
from headrace.errors import InvalidParameter, UserError
from headrace.types import Embedded, Embedder, EmbedRequest

_TEXTS_AT_ONCE = 256

Texts = Annotated[list[str] | None, typer.Argument(help="Texts; none = --input.")]
Input = Annotated[
    str | None,
    typer.Option(
        "--input", "-i", help="A file of JSON lines, - = standard input: a string, or an object."
    ),
]
Field = Annotated[str, typer.Option(help="Where an object's text is; its other fields are kept.")]
Model = Annotated[
    str | None, typer.Option(help="Encoder: directory, hub id or minilm [embeddings.path].")
]
Kind = Annotated[str, typer.Option("--type", help="What the texts are: query, passage.")]
Dimensions = Annotated[int | None, typer.Option(help="Shorter vectors, of models trained for it.")]
Truncate = Annotated[bool, typer.Option("--truncate", help="Cut what is too long; tell of it.")]
Packed = Annotated[bool, typer.Option("--base64", help="float32, little-endian, in base64.")]


def embed(
    ctx: typer.Context,
    texts: Texts = None,
    input: Input = None,
    field: Field = "text",
    model: Model = None,
    kind: Kind = "",
    dimensions: Dimensions = None,
    truncate: Truncate = False,
    base64: Packed = False,
) -> None:
    """Print one JSON object a text: its index, its vector, and the fields that came with it."""
    settings = report.settings(ctx)
    if model is not None or not settings.embeddings.path:
        path = model or MINILM
        settings = replace(settings, embeddings=replace(settings.embeddings, path=path))
    request = EmbedRequest(
        model="", inputs=(), prompt=kind, dimensions=dimensions, truncate=truncate
    )
    if bool(texts) == (input is not None):
        raise InvalidParameter("give texts, or --input, and not both")
    if texts:
        rows: Iterator[tuple[str, dict[str, object]]] = ((text, {}) for text in texts)
        asyncio.run(_embed(settings, request, rows, packed=base64))
    elif input == "-":
        asyncio.run(_embed(settings, request, _rows(sys.stdin, "-", field), packed=base64))
    else:
        assert input is not None
        try:
            with Path(input).open(encoding="utf-8") as stream:
                rows = _rows(stream, input, field)
                asyncio.run(_embed(settings, request, rows, packed=base64))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {input}: {error}") from error


async def _embed(
    settings: Settings,
    request: EmbedRequest,
    rows: Iterator[tuple[str, dict[str, object]]],
    *,
    packed: bool,
) -> None:
    index = 0
    async with AsyncExitStack() as stack:
        embedder = await stack.enter_async_context(open_embedder(settings))
        async for batch, answer in _answers(embedder, request, rows):
            for at, (_, kept) in enumerate(batch):
                vector = answer.row(at)
                shown: object = (
                    base64.b64encode(vector.cast("B")).decode() if packed else vector.tolist()
                )
                line: dict[str, object] = {**kept, "index": index, "embedding": shown}
                if at in answer.truncated:
                    line["truncated"] = True
                sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
                index += 1


async def _answers(
    embedder: Embedder, request: EmbedRequest, rows: Iterator[tuple[str, dict[str, object]]]
) -> AsyncIterator[tuple[list[tuple[str, dict[str, object]]], Embedded]]:
    while batch := list(islice(rows, _TEXTS_AT_ONCE)):
        texts = tuple(text for text, _ in batch)
        yield batch, await embedder.embed(replace(request, inputs=texts))


def _rows(stream: TextIO, name: str, field: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Each line's text, and what else it says."""
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise InvalidParameter(f"{name}:{number} is not JSON: {error}") from error
        text = value.get(field) if isinstance(value, dict) else value
        if not isinstance(text, str) or not text:
            raise InvalidParameter(
                f"{name}:{number} has no text: a line is a string, or an object with {field!r}"
            )
        kept = {k: v for k, v in value.items() if k != field} if isinstance(value, dict) else {}
        yield text, kept
