"""Named indexes: made, listed, written to, searched, deleted; each owner's apart."""

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.config import IndexSettings, SourceSettings
from headrace.errors import ConfigError, Conflict, InvalidParameter, NotFound
from headrace.retrieval import opened
from headrace.retrieval.migrate import Migration
from headrace.testing.embedder import HashEmbedder
from headrace.types import DocumentState, NewDocument, SearchRequest
from index_library import BLUE, RED, errand, library, other_model, spec, text

pytestmark = pytest.mark.asyncio

ASK = SearchRequest(index="notes", query="the red fox", k=3, principals=None)


async def test_documents_go_in_are_found_and_are_gone_when_deleted(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        await books.create(spec(), errand())
        done = await books.ingest(
            "notes", [text("a", "the red fox\na blue whale"), text("b", "green tea")], errand()
        )
        assert [item.state for item in done.documents] == [DocumentState.SEARCHABLE] * 2
        assert done.embedded == 3
        found = await books.search(ASK, errand())
        assert found.passages[0].chunk.text == "the red fox"
        assert found.snapshot == done.snapshot
        await books.remove("notes", "a", RED)
        assert [p.chunk.document for p in (await books.search(ASK, errand())).passages] == ["b"]
        with pytest.raises(NotFound, match="'a'"):
            await books.document("notes", "a", RED, None)
        for path in (tmp_path / "indexes").rglob("*"):
            assert not path.is_file() or b"red fox" not in path.read_bytes(), path


async def test_what_is_unchanged_is_not_embedded_again(tmp_path: Path) -> None:
    model = HashEmbedder()
    async with library(tmp_path) as books:
        await books.create(spec(), errand(model))
        await books.ingest("notes", [text("a", "one\ntwo")], errand(model))
        before = len(model.requests)
        again = await books.ingest("notes", [text("a", "one\ntwo")], errand(model))
        assert again.documents[0].state is DocumentState.UNCHANGED
        changed = await books.ingest("notes", [text("a", "one\nthree")], errand(model))
        assert (changed.embedded, changed.reused) == (1, 1)
        assert [r.inputs for r in model.requests[before:]] == [("three",)]


async def test_what_cannot_be_read_has_its_reason_and_stops_nothing(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        await books.create(spec(), errand())
        bad = NewDocument(id="x.pdf", filename="x.pdf", data=b"")
        done = await books.ingest("notes", [bad, text("b", "green tea"), text("c", " ")], errand())
        assert [(d.id, d.state.value, d.reason) for d in done.documents] == [
            ("x.pdf", "failed", "empty"),
            ("b", "searchable", ""),
            ("c", "failed", "no_text"),
        ]
        page = await books.documents("notes", RED, None)
        assert [(d.id, d.state.value) for d in page.documents] == [
            ("b", "searchable"),
            ("c", "failed"),
            ("x.pdf", "failed"),
        ]
        assert (await books.describe("notes", RED)).failed == 2
        await books.ingest("notes", [text("c", "now it says something")], errand())
        assert (await books.document("notes", "c", RED, None)).state is DocumentState.SEARCHABLE
        first = await books.documents("notes", RED, None, limit=1)
        assert ([d.id for d in first.documents], first.more) == (["b"], True)
        rest = await books.documents("notes", RED, None, after="b")
        assert ([d.id for d in rest.documents], rest.more) == (["c", "x.pdf"], False)


async def test_another_owners_index_is_not_there(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        await books.create(spec(), errand())
        await books.create(spec("open", shared=True), errand())
        await books.ingest("open", [text("a", "the red fox")], errand())
        blue = errand(owner=BLUE)
        said: set[str] = set()
        for name in ("notes", "none"):
            for call in (
                books.describe(name, BLUE),
                books.delete(name, BLUE),
                books.search(SearchRequest(index=name, query="x"), blue),
                books.ingest(name, [text("a", "x")], blue),
                books.documents(name, BLUE, None),
                books.snapshot(name, BLUE),
            ):
                with pytest.raises(NotFound) as error:
                    await call
                said.add(error.value.message.replace(name, "NAME"))
        assert said == {"there is no index 'NAME' here"}
        assert [card.spec.name for card in await books.list(BLUE)] == ["open"]
        shared = SearchRequest(index="open", query="fox")
        assert (await books.search(shared, blue)).passages
        with pytest.raises(NotFound):
            await books.ingest("open", [text("b", "x")], blue)
        with pytest.raises(NotFound):
            await books.remove("open", "a", BLUE)


async def test_readers_are_kept_from_others(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        await books.create(spec(), errand())
        await books.ingest(
            "notes", [text("a", "the red fox", "user:eve"), text("b", "a fox")], errand()
        )

        async def seen(*principals: str) -> list[str]:
            ask = SearchRequest(index="notes", query="fox", principals=frozenset(principals))
            found = await books.search(ask, errand())
            page = await books.documents("notes", RED, frozenset(principals))
            names = sorted({p.chunk.document for p in found.passages})
            assert names == [item.id for item in page.documents]
            return names

        assert await seen() == ["b"]
        assert await seen("user:bob") == ["b"]
        assert await seen("user:bob", "user:eve") == ["a", "b"]
        with pytest.raises(NotFound, match="'a'"):
            await books.document("notes", "a", RED, frozenset({"user:bob"}))


async def test_an_index_that_another_process_made_anew_is_not_the_old_one(tmp_path: Path) -> None:
    async with library(tmp_path) as here, library(tmp_path) as there:
        await here.create(spec(), errand())
        await here.ingest("notes", [text("a", "the red fox")], errand())
        before = await here.snapshot("notes", RED)
        await there.delete("notes", RED)
        with pytest.raises(NotFound):
            await here.search(ASK, errand())
        await there.create(spec(), errand())
        assert (await here.search(ASK, errand())).passages == ()
        assert await here.snapshot("notes", RED) != before


async def test_what_cannot_be_an_index_says_why(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        for name in ("", "Notes", "a/b", "..", "a" * 65):
            with pytest.raises(InvalidParameter, match="cannot be called"):
                await books.create(spec(name), errand())
        await books.create(spec(), errand())
        with pytest.raises(Conflict, match="already"):
            await books.create(spec(), errand())
        with pytest.raises(InvalidParameter, match="twice"):
            await books.ingest("notes", [text("a", "x"), text("a", "y")], errand())
        renamed = HashEmbedder(name="hash", dimensions=8)
        with pytest.raises(Conflict, match="headrace index migrate"):
            await books.search(ASK, errand(renamed))


async def test_a_failed_making_leaves_nothing(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        with pytest.raises(InvalidParameter, match="dimensions"):
            await books.create(spec(), errand(other_model(1_000_000)))
        assert await books.list(RED) == []
    assert not [path for path in (tmp_path / "indexes").rglob("*") if path.is_file()]


async def test_a_directory_is_brought_over_and_what_it_lost_is_lost(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.md").write_text("the red fox")
    (files / "b.md").write_text("green tea")
    (files / "bad.pdf").write_bytes(b"")
    source = SourceSettings(path=str(files), include=("*.md", "*.pdf"))
    settings = IndexSettings(org="acme", team="red", sources={"docs": source})
    async with library(tmp_path) as books:
        books.settle({"notes": settings})
        assert (await books.spec("notes", RED)).name == "notes"
        with pytest.raises(NotFound):
            await books.spec("notes", BLUE)
        with pytest.raises(InvalidParameter, match="it has: docs"):
            await books.sync("notes", "other", errand())
        [done] = await books.sync("notes", "", errand())
        assert (done.added, [item.reason for item in done.failed]) == (2, ["empty"])
        page = await books.documents("notes", RED, None)
        assert [item.state.value for item in page.documents] == [
            "searchable",
            "searchable",
            "failed",
        ]
        of_source = page.documents[0]
        assert of_source.source == "docs"
        with pytest.raises(Conflict, match="would come again"):
            await books.remove("notes", of_source.id, RED)
        with pytest.raises(Conflict, match="by another id"):
            await books.ingest("notes", [text(of_source.id, "mine")], errand())
        (files / "a.md").unlink()
        [again] = await books.sync("notes", "docs", errand())
        assert (again.removed, again.unchanged, again.embedded) == (1, 1, 0)
        found = await books.search(ASK, errand())
        assert [p.chunk.text for p in found.passages] == ["green tea"]


async def test_what_a_source_brings_during_a_migration_is_in_both(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.md").write_text("the red fox")
    source = SourceSettings(path=str(files))
    old, new = HashEmbedder(dimensions=32), other_model(96)
    both = errand(old, new)
    async with library(tmp_path) as books:
        books.settle({"notes": IndexSettings(org="acme", team="red", sources={"docs": source})})
        await books.sync("notes", "", both)
        index = await books.open("notes", RED)
        migration = Migration(index)
        await migration.begin(new, both)
        async for _ in migration.fill(both):
            pass
        (files / "b.md").write_text("green tea")
        await books.sync("notes", "", both)
        assert not await index.store.missing(2, 9)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (IndexSettings(policy="ignore"), "indexes.a.policy = 'ignore' is not one of annotate"),
        (IndexSettings(team="red"), "indexes.a.org is missing"),
        (IndexSettings(chunk_tokens=3), "`chunk_tokens` 3 is out of range"),
        (
            IndexSettings(sources={"s": SourceSettings(kind="ftp", path="x")}),
            "indexes.a.sources.s.kind = 'ftp' is not a kind",
        ),
        (IndexSettings(sources={"s": SourceSettings()}), "sources.s.path is missing"),
        (
            IndexSettings(sources={"s": SourceSettings(path="x", bucket="b")}),
            "sources.s.bucket has no effect",
        ),
    ],
)
async def test_settings_that_cannot_be(settings: IndexSettings, said: str, tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        with pytest.raises(ConfigError, match=said):
            books.settle({"a": settings})


LONG = "revenue rose to {} million; " + " ".join(f"word{n}" for n in range(60))


async def test_what_is_handed_in_is_marked_beside_what_is_synced(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "report.md").write_text(LONG.format(7))
    sources = {"docs": SourceSettings(path=str(files))}
    settings = {"notes": IndexSettings(org="acme", team="red", sources=sources)}
    async with library(tmp_path) as books:
        books.settle(settings)
        await books.sync("notes", "", errand())
        old = replace(text("old", LONG.format(5)), title="Plan v1", modified_s=1000.0)
        new = replace(text("new", LONG.format(6)), title="Plan v2", modified_s=2000.0)
        done = await books.ingest("notes", [old, new], errand())
        assert [one.superseded_by for one in done.documents] == ["new", ""]
        assert set(done.documents[1].conflicts) == {"docs/report.md"}
        assert done.snapshot == (await books.search(ASK, errand())).snapshot
        synced = await books.document("notes", "docs/report.md", RED, None)
        assert set(synced.conflicts) == {"new", "old"}
        await books.remove("notes", "new", RED)
        assert (await books.document("notes", "old", RED, None)).superseded_by == ""
        await books.ingest("notes", [text("old", "green tea")], errand())
        assert (await books.document("notes", "docs/report.md", RED, None)).conflicts == ()


async def test_a_copy_is_kept_and_noted(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        await books.create(spec(), errand())
        await books.ingest("notes", [text("a", "the red fox")], errand())
        done = await books.ingest("notes", [text("b", "the red fox"), text("c", "tea")], errand())
        assert [one.notes for one in done.documents] == [
            ("it says word for word what a says",),
            (),
        ]
        assert [one.superseded_by for one in done.documents] == ["", ""]
        await books.remove("notes", "a", RED)
        assert (await books.search(ASK, errand())).passages[0].chunk.document == "b"


async def test_a_large_index_is_marked_in_the_next_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "_MARKED_AT_ONCE", 1)
    async with library(tmp_path) as books:
        await books.create(spec(), errand())
        one, other = text("a", LONG.format(5)), text("b", LONG.format(6))
        done = await books.ingest("notes", [one, other], errand())
        assert [item.conflicts for item in done.documents] == [(), ()]
        assert await books.tidy() == 0
        assert (await books.document("notes", "a", RED, None)).conflicts == ("b",)
