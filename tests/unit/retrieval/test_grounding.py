"""An index of a library answers: what was ingested is found, packed, asked about and cited."""

from pathlib import Path

import pytest

from headrace.errors import InvalidParameter, NotFound
from headrace.retrieval.answering.grounding import Grounds
from headrace.retrieval.answering.styles import StyleName
from headrace.retrieval.library import Library
from headrace.testing import ScriptedBackend, reply
from headrace.types import (
    ChatRequest,
    CitationPolicy,
    DocumentPart,
    Grounding,
    Message,
    NewDocument,
    Role,
    TextPart,
    collect,
)
from index_library import BLUE, Lines, Nearest, errand, spec

pytestmark = pytest.mark.asyncio

TEXT = b"The Vey bridge was opened in 1931.\nThe ferry of Vey sank in 1928."
PRIVATE = b"The Vey bridge is owned by Ada."


def library(directory: Path, styles: dict[str, StyleName] | None = None) -> Library:
    ground = Grounds(styles)
    return Library(directory / "indexes", cut=lambda _: Lines(), seek=Nearest, ground=ground)


def asking(said: str) -> tuple[ScriptedBackend, ChatRequest]:
    backend = ScriptedBackend(lambda request: reply(request, [said]))
    message = Message(role=Role.USER, parts=(TextPart(text="When was the Vey bridge opened?"),))
    return backend, ChatRequest(model="m", messages=(message,), trace="r1")


async def filled(books: Library) -> None:
    await books.create(spec(), errand())
    documents = [
        NewDocument(id="vey", data=TEXT, title="Vey"),
        NewDocument(id="deed", data=PRIVATE, readers=frozenset({"user:ada"})),
    ]
    await books.ingest("notes", documents, errand())


async def test_what_was_ingested_is_cited(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        await filled(books)
        backend, request = asking("It was opened in 1931 [1]. It sank in 1930 [1].")
        how = Grounding(index="notes", policy=CitationPolicy.STRIKE)
        answer = await collect(books.grounded(how, backend, errand()).stream(request))
        [choice] = answer.choices
        assert choice.text == "It was opened in 1931 [1]. […]."
        good, bad = choice.citations
        assert (good.document, good.quote) == ("vey", "The Vey bridge was opened in 1931.")
        assert TEXT.decode()[good.start : good.end] == good.quote
        assert bad.verdict == "contradicted"
        assert {note.hop for note in request.trail.notes} >= {"retrieval", "packing", "citations"}


@pytest.mark.parametrize(("eyes", "seen"), [("user:bob", False), ("user:ada", True)])
async def test_a_prompt_has_only_what_its_asker_may_read(
    eyes: str, seen: bool, tmp_path: Path
) -> None:
    async with library(tmp_path) as books:
        await filled(books)
        backend, request = asking("It was opened in 1931 [1].")
        how = Grounding(index="notes", principals=frozenset({eyes}))
        await collect(books.grounded(how, backend, errand()).stream(request))
        [sent] = backend.requests
        assert isinstance(sent, ChatRequest)
        parts = [p for m in sent.messages for p in m.parts if isinstance(p, DocumentPart)]
        assert any("owned by Ada" in part.text for part in parts) is seen
        told = " ".join(note.text for note in request.trail.notes)
        assert ("deed" in told) <= seen


async def test_models_are_asked_as_they_want(tmp_path: Path) -> None:
    async with library(tmp_path, {"m": StyleName.QUOTE}) as books:
        await filled(books)
        for style, turns in (("", 1), ("general", 2)):
            backend, request = asking('"1931" [1]')
            how = Grounding(index="notes", style=style)
            await collect(books.grounded(how, backend, errand()).stream(request))
            [sent] = backend.requests
            assert isinstance(sent, ChatRequest)
            assert len(sent.messages) == turns


async def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        await filled(books)
        backend, request = asking("x")
        for how, error in (
            (Grounding(index="notes", style="loud"), InvalidParameter),
            (Grounding(index="notes", policy=CitationPolicy.ESCALATE), InvalidParameter),
        ):
            with pytest.raises(error):
                await collect(books.grounded(how, backend, errand()).stream(request))
        other = books.grounded(Grounding(index="notes"), backend, errand(owner=BLUE))
        with pytest.raises(NotFound):
            await collect(other.stream(request))
        assert backend.requests == []
