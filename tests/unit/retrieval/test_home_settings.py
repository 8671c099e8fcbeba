"""Which home keeps indexes: settings → files or a PostgreSQL, or why neither."""

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.app.indexes import index_home, tidying
from headrace.config import RetrievalSettings, Settings, StoreSettings, index_url
from headrace.errors import ConfigError
from headrace.retrieval.homes.directory import OnDisk
from headrace.retrieval.homes.postgres import OnPostgres
from index_library import errand, library, spec

PG = "postgresql://me@db/one"


def _settings(
    retrieval: RetrievalSettings, store: str = "", directory: Path | None = None
) -> Settings:
    chosen = replace(retrieval, directory="" if directory is None else str(directory))
    return replace(Settings(), retrieval=chosen, store=StoreSettings(url=store))


@pytest.mark.parametrize(
    ("retrieval", "store", "url"),
    [
        (RetrievalSettings(), "", ""),
        (RetrievalSettings(), "sqlite:///x.db", ""),
        (RetrievalSettings(), PG, PG),
        (RetrievalSettings(home="postgres"), PG, PG),
        (RetrievalSettings(home="files"), PG, ""),
        (RetrievalSettings(url="postgresql://other/two"), PG, "postgresql://other/two"),
        (RetrievalSettings(url=PG), "", PG),
    ],
)
def test_a_home(retrieval: RetrievalSettings, store: str, url: str, tmp_path: Path) -> None:
    settings = _settings(retrieval, store, tmp_path)
    assert index_url(settings) == url
    assert isinstance(index_home(settings), OnPostgres if url else OnDisk)


@pytest.mark.parametrize(
    ("retrieval", "said"),
    [
        (RetrievalSettings(home="redis"), "retrieval.home = 'redis' is not known"),
        (RetrievalSettings(home="postgres"), "needs one: set retrieval.url, or store.url"),
        (RetrievalSettings(url="sqlite:///x"), "retrieval.url is of no PostgreSQL"),
        (RetrievalSettings(home="files", url=PG), "retrieval.url has no effect"),
        (RetrievalSettings(connections=0), "retrieval.connections = 0 must be 1 or more"),
    ],
)
def test_no_home(retrieval: RetrievalSettings, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        index_url(_settings(retrieval))


async def test_indexes_that_are_files_are_not_hidden_by_a_store_that_became_postgresql(
    tmp_path: Path,
) -> None:
    async with library(tmp_path) as books:
        await books.create(spec(), errand())
    directory = tmp_path / "indexes"
    with pytest.raises(ConfigError, match="to keep these"):
        index_home(_settings(RetrievalSettings(), PG, directory))
    for home in ("files", "postgres"):
        index_home(_settings(RetrievalSettings(home=home), PG, directory))


async def test_an_interval_of_purging_that_cannot_be(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        with pytest.raises(ConfigError, match="purge_s = 0 must"):
            async with tidying(_settings(RetrievalSettings(purge_s=0)), books):
                pass


async def test_text_that_was_written_over_is_purged_by_the_service_itself(tmp_path: Path) -> None:
    from index_library import text

    async with library(tmp_path) as books:
        await books.create(spec(), errand())
        await books.ingest("notes", [text("a", "the red fox")], errand())
        await books.ingest("notes", [text("a", "a blue whale")], errand())

        def said() -> bool:
            files = [path for path in (tmp_path / "indexes").rglob("*") if path.is_file()]
            return any(b"red fox" in path.read_bytes() for path in files)

        assert said()
        assert await books.tidy() == 0
        assert not said()
