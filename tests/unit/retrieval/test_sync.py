"""What a sync does for each way in which a source can have changed."""

import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import indexing
from headrace.errors import Conflict, Overloaded, UpstreamError
from headrace.retrieval.parsing import Limits, Raw, Refusal, Unreadable
from headrace.retrieval.sources import Access, Directory, Item, Rule
from headrace.retrieval.sync import Handed, Outcome, SyncSettings
from headrace.types import Where

LONG = "\n\n".join(f"# Part {n}\n\n{'Some words of it. ' * 12}{n}" for n in range(4))


async def test_what_changed_is_embedded_and_nothing_else(tmp_path: Path) -> None:
    async with indexing.world(tmp_path) as world:
        world.write("a.md", LONG)
        world.write("b/c.md", "# Other\n\nshort")
        first = await world.sync()
        assert (first.added, first.items, first.failed) == (2, 2, 0)
        assert first.embedded == len(world.embedder.texts) == first.chunks
        again = await world.sync()
        assert (again.unchanged, again.embedded, again.chunks) == (2, 0, 0)
        world.write("a.md", LONG.replace("of it. 2", "of that. 2"))
        changed = await world.sync()
        assert changed.changed == 1
        assert 1 <= changed.embedded <= 2
        assert all("of that" in text for text in world.embedder.texts[:1])
        assert world.memory.told == ["docs/a.md"]


async def test_a_touched_or_moved_or_swapped_file_embeds_nothing(tmp_path: Path) -> None:
    async with indexing.world(tmp_path) as world:
        for n in range(12):
            world.write(f"{n:02}.md", f"# T{n}\n\n{f'word{n} ' * 60}")
        await world.sync()
        world.write("03.md", f"# T3\n\n{'word3 ' * 60}", at_s=1_700_000_500.0)
        (world.files / "04.md").rename(world.files / "zz.md")
        (world.files / "00.md").rename(world.files / "x")  # 00 and 11 swap
        (world.files / "11.md").rename(world.files / "00.md")
        (world.files / "x").rename(world.files / "11.md")
        report = await world.sync()
        assert report.embedded == 0
        assert (report.added, report.changed, report.removed) == (1, 3, 1)
        document = await world.store.document("docs/00.md", indexing.ALL)
        assert "word11" in document.text
        assert (await world.store.document("docs/03.md", indexing.ALL)).modified_s == 1_700_000_500


async def test_deleted_text_is_in_no_file_and_listeners_are_told(tmp_path: Path) -> None:
    async with indexing.world(tmp_path) as world:
        world.write("a.md", "# Xylophonic\n\nThe zanzibarquux is secret. " * 20)
        world.write("b.md", "# Kept\n\nThis stays.")
        await world.sync()
        (world.files / "a.md").unlink()
        report = await world.sync()
        assert report.removed == 1
        assert world.memory.told == ["docs/a.md"]
        assert world.outcomes() == {"b.md": "searchable"}
    held = b"".join(p.read_bytes() for p in (tmp_path / "home").rglob("*") if p.is_file()).lower()
    assert b"this stays" in held
    assert b"zanzibarquux" not in held
    assert b"xylophonic" not in held
    assert b"a.md" not in held


async def test_retention_delays_the_purge(tmp_path: Path) -> None:
    now = [2_000_000_000.0]
    settings = SyncSettings(retention_s=100)
    async with indexing.world(tmp_path, settings=settings, clock=lambda: now[0]) as world:
        world.write("a.md", "gone soon")
        await world.sync()
        (world.files / "a.md").unlink()
        await world.sync()
        assert world.state.unpurged_since() == 2_000_000_000
        now[0] += 101
        await world.sync()
        assert world.state.unpurged_since() == 0


async def test_files_that_cannot_be_read_have_a_status_and_stop_nothing(tmp_path: Path) -> None:
    async with indexing.world(tmp_path, limits=Limits(file_bytes=1000)) as world:
        world.write("empty.md", "")
        world.write("fine.md", "words")
        (world.files / "huge.bin").touch()
        os.truncate(world.files / "huge.bin", 500 << 20)
        (world.files / "bad.pdf").write_bytes(b"%PDF-1.4 nothing")
        report = await world.sync()
        assert (report.added, report.failed) == (1, 3)
        assert world.outcomes() == {
            "bad.pdf": "failed corrupt",
            "empty.md": "failed empty",
            "fine.md": "searchable",
            "huge.bin": "failed too_large",
        }
        (row,) = (r for r in world.state.statuses(outcome=Outcome.FAILED) if r.key == "huge.bin")
        assert row.detail == "it has 524288000 bytes; at most 1000 are read"
        world.write("fine.md", "")
        assert (await world.sync()).removed == 1
        assert await world.store.document("docs/fine.md", indexing.ALL) is None


async def test_of_equal_texts_the_first_is_searchable_and_another_takes_its_place(
    tmp_path: Path,
) -> None:
    async with indexing.world(tmp_path) as world:
        world.write("b.md", LONG)
        world.write("c.md", LONG)
        await world.sync()
        assert world.outcomes() == {"b.md": "searchable", "c.md": "skipped duplicate"}
        assert (await _row(world, "c.md")).detail == "duplicate of docs/b.md"
        world.write("a.md", LONG)
        report = await world.sync()
        assert report.embedded == 0
        assert world.outcomes()["a.md"] == "searchable"
        assert world.outcomes()["b.md"] == "skipped duplicate"
        (world.files / "a.md").unlink()
        world.write("b.md", "something else")
        report = await world.sync()
        assert world.outcomes() == {"b.md": "searchable", "c.md": "searchable"}
        assert world.embedder.texts == ["something else"]


async def test_items_that_are_named_are_synced_and_no_other(tmp_path: Path) -> None:
    async with indexing.world(tmp_path) as world:
        for key in ("a.md", "b.md", "c.md"):
            world.write(key, f"what {key} says")
        await world.sync()
        listed = world.state.last_listed("docs")
        for key in ("a.md", "c.md", "new.md"):
            world.write(key, f"anew: {key}", at_s=1_700_000_100.0)
        (world.files / "b.md").unlink()
        world.embedder.texts.clear()
        report = await world.syncer.sync(world.source, only=["a.md", "b.md", "nowhere.md"])
        assert (report.items, report.added, report.changed, report.removed) == (1, 0, 1, 1)
        assert world.embedder.texts == ["anew: a.md"]
        assert world.outcomes() == {"a.md": "searchable", "c.md": "searchable"}
        document = await world.store.document("docs/c.md", indexing.ALL)
        assert document is not None
        assert document.text == "what c.md says"
        assert await world.store.document("docs/b.md", indexing.ALL) is None
        assert world.state.last_listed("docs") == listed  # nobody looked at the rest
        await world.sync()
        assert world.embedder.texts == ["anew: c.md", "anew: new.md"]


async def test_copies_of_an_item_that_is_named_take_its_place(tmp_path: Path) -> None:
    async with indexing.world(tmp_path) as world:
        for key in ("a.md", "b.md", "c.md"):
            world.write(key, LONG)
        await world.sync()
        (world.files / "a.md").unlink()
        await world.syncer.sync(world.source, only=["a.md"])
        assert world.outcomes() == {"b.md": "searchable", "c.md": "skipped duplicate"}
        world.write("d.md", LONG)
        await world.syncer.sync(world.source, only=["d.md"])
        assert world.outcomes()["d.md"] == "skipped duplicate"
        assert await world.store.document("docs/d.md", indexing.ALL) is None


async def test_equal_texts_for_different_readers_are_both_searchable(tmp_path: Path) -> None:
    files = tmp_path / "files"
    rules = Access(rules=[Rule(pattern="x/*", readers=frozenset({"legal"}))])
    source = Directory("docs", files, access=rules, clock=lambda: 2_000_000_000.0)
    async with indexing.world(tmp_path, source=source) as world:
        world.write("x/a.md", LONG)
        world.write("y/a.md", LONG)
        await world.sync()
        found = {row.id: row.readers async for row in world.store.documents(indexing.ALL)}
        assert found == {"docs/x/a.md": frozenset({"legal"}), "docs/y/a.md": None}
        (world.files / "y/a.md.access.json").write_text(json.dumps({"readers": ["ann", "bob"]}))
        report = await world.sync()
        assert (report.changed, report.embedded) == (1, 0)
        row = [row async for row in world.store.documents(indexing.ALL)][1]
        assert row.readers == {"ann", "bob"}
        (world.files / "y/a.md.access.json").write_text("{}")
        await world.sync()
        assert world.outcomes()["y/a.md"] == "failed access"
        assert await world.store.document("docs/y/a.md", indexing.ALL) is None


class Flaky(Directory):
    """A source that answers what it is told to."""

    refuse: Refusal | None = None
    broken = False

    async def items(self) -> AsyncIterator[Item]:
        async for item in super().items():
            yield item
            if self.broken:
                raise UpstreamError("the listing broke off")

    async def fetch(self, item: Item, *, known: str, limit_bytes: int) -> Any:
        if self.refuse is not None:
            return self.refuse
        return await super().fetch(item, known=known, limit_bytes=limit_bytes)


async def test_what_a_source_cannot_give_now_stays_and_is_stale(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    source = Flaky("docs", tmp_path / "files", clock=lambda: 0.0)  # never settled: always fetched
    async with indexing.world(tmp_path, source=source, clock=lambda: now[0]) as world:
        world.write("a.md", LONG)
        await world.sync()
        source.refuse = Refusal(reason=Unreadable.UNAVAILABLE, detail="its server answered 503")
        world.write("new.md", "never seen")
        now[0] += 50
        report = await world.sync()
        assert (report.stale, report.failed, report.removed) == (1, 1, 0)
        assert world.outcomes() == {"a.md": "searchable stale", "new.md": "failed unavailable"}
        now[0] += 50
        found = world.syncer.freshness("docs", objective_s=60)
        assert found.behind_s == 100
        assert not found.kept
        assert found.why == "some of its items could not be fetched"
        source.refuse = None
        await world.sync()
        assert world.outcomes() == {"a.md": "searchable", "new.md": "searchable"}
        assert world.syncer.freshness("docs", objective_s=60).kept


async def test_a_listing_that_breaks_off_deletes_nothing(tmp_path: Path) -> None:
    source = Flaky("docs", tmp_path / "files")
    async with indexing.world(tmp_path, source=source) as world:
        world.write("a.md", "one")
        world.write("b.md", "two")
        await world.sync()
        source.broken = True
        with pytest.raises(UpstreamError):
            await world.sync()
        assert len([row async for row in world.store.documents(indexing.ALL)]) == 2
        assert world.state.failure("docs") == "the listing broke off"


async def test_what_may_succeed_later_is_tried_again_a_bounded_number_of_times(
    tmp_path: Path,
) -> None:
    async with indexing.world(tmp_path) as world:
        world.write("a.md", "words")
        left = [3]

        def fail() -> None:
            left[0] -= 1
            if left[0] >= 0:
                raise Overloaded("later")

        world.embedder.before = fail
        assert (await world.sync()).added == 1
        world.write("b.md", "more")
        left[0] = 100
        with pytest.raises(Overloaded):
            await world.sync()
        assert left[0] == 95


async def test_another_embedder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    async with indexing.world(tmp_path) as world:
        world.write("a.md", "words")
        world.embedder.card = replace(world.embedder.card, fingerprint="other")
        with pytest.raises(Conflict, match="migrate the index"):
            await world.sync()


async def test_one_run_at_a_time(tmp_path: Path) -> None:
    async with indexing.world(tmp_path) as world:
        with world.state.exclusive(), pytest.raises(Conflict, match="another process"):
            await world.sync()


async def test_documents_are_handed_in_replaced_and_removed(tmp_path: Path) -> None:
    async with indexing.world(tmp_path) as world:
        world.write("a.md", "words of a file")
        await world.sync()
        handed = [
            Handed(id="x", raw=Raw(data=b"# One\n\ntext", name="x.md"), metadata={"team": "red"}),
            Handed(id="y", raw=Raw(data=b"", name="y.md")),
        ]
        statuses = await world.syncer.ingest(handed)
        assert [(one.document, one.outcome) for one in statuses] == [
            ("x", Outcome.SEARCHABLE),
            ("y", Outcome.FAILED),
        ]
        where = Where(field="team", value="red")
        scope = indexing.Scope(principals=None, filter=where)
        assert (await world.store.document("x", scope)).title == "One"
        assert (await world.sync()).removed == 0
        await world.syncer.ingest([Handed(id="x", raw=Raw(data=b"other", name="x.md"))])
        assert world.memory.told == ["x"]
        with pytest.raises(Conflict, match="is of source docs"):
            await world.syncer.remove(["docs/a.md"])
        await world.syncer.remove(["x", "nowhere"])
        assert await world.store.document("x", indexing.ALL) is None
        assert await world.syncer.drop("docs") == 1
        assert not [row async for row in world.store.documents(indexing.ALL)]


RULE = (
    "Travel costs are paid back within 30 days after the claim was handed in at the front office "
    "and signed by the head of the team that the traveller belongs to, where receipts are kept. "
) * 2


async def test_newer_versions_supersede_and_other_documents_conflict(tmp_path: Path) -> None:
    async with indexing.world(tmp_path) as world:
        world.write("policy_v1.md", RULE, at_s=1000)
        world.write("policy_v2.md", RULE.replace("30 days", "60 days"), at_s=2000)
        world.write("intranet.md", RULE.replace("30 days", "45 days"), at_s=3000)
        world.write("recipe.md", "Boil the eggs for six minutes and peel them under water.")
        await world.sync()
        rows = {row.id: row async for row in world.store.documents(indexing.ALL)}
        assert rows["docs/policy_v1.md"].superseded_by == "docs/policy_v2.md"
        assert rows["docs/policy_v2.md"].superseded_by == ""
        assert rows["docs/policy_v2.md"].conflicts == ("docs/intranet.md",)
        assert rows["docs/recipe.md"].conflicts == ()
        (world.files / "intranet.md").unlink()
        (world.files / "policy_v2.md").unlink()
        report = await world.sync()
        assert report.marked == 1
        rows = {row.id: row async for row in world.store.documents(indexing.ALL)}
        assert rows["docs/policy_v1.md"].superseded_by == ""
        assert rows["docs/policy_v1.md"].conflicts == ()


async def test_marks_never_name_what_a_reader_may_not_know_of(tmp_path: Path) -> None:
    async with indexing.world(tmp_path) as world:
        world.write("policy_v1.md", RULE, at_s=1000)
        world.write("policy_v2.md", RULE.replace("30 days", "60 days"), at_s=2000)
        (world.files / "policy_v2.md.access.json").write_text('{"readers": ["board"]}')
        await world.sync()
        rows = {row.id: row async for row in world.store.documents(indexing.ALL)}
        assert rows["docs/policy_v1.md"].superseded_by == ""


async def _row(world: indexing.World, key: str) -> Any:
    return world.state.of_source("docs")[key]
