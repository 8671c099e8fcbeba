"""What a running service is made of, made anew where its settings change."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headrace import __version__
from headrace.app.indexes import source_ages
from headrace.app.local import LocalEmbedder
from headrace.app.models import fronted_models, served_models
from headrace.config import Settings
from headrace.errors import ConfigError, HeadraceError
from headrace.types import Caller, Target

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from headrace.engine.chat import EngineChat
    from headrace.engine.client import EngineClient
    from headrace.gateway.batch_queue import BatchQueue
    from headrace.gateway.caching.shelf import Shelf
    from headrace.gateway.control import Control
    from headrace.gateway.delivery_queue import DeliveryQueue
    from headrace.gateway.door import Door
    from headrace.gateway.exporter import Exporter
    from headrace.gateway.http import ASGIApp, Receive, Scope, Send
    from headrace.gateway.live import Live
    from headrace.gateway.reload import ConfigState, Reading, Reloader
    from headrace.gateway.services import Health, ServedEmbedder, Services
    from headrace.gateway.stored import StoredResponses
    from headrace.gateway.traces import Traces
    from headrace.observe.metrics import EngineStats
    from headrace.providers.residency import Residency
    from headrace.retrieval.library import Library
    from headrace.store.database import Database


_MOST_AUDITED = 1000
"""Characters of why a file was refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingsSource:
    """Where the settings of a service came from, to be read again when that changes."""

    file: Path
    load: Callable[[], Settings]
    """As they were read at the start: file, environment, `--set` and the verb's own options."""


class House:
    """What outlives a change of the settings, and what is made anew from them."""

    def __init__(
        self,
        *,
        client: "EngineClient | None",
        chat: "EngineChat | None",
        vectors: LocalEmbedder | None,
        control: "Control | None",
        stored: "StoredResponses | None",
        queue: "BatchQueue | None",
        shelf: "Shelf",
        door: "Door | None" = None,
        library: "Library | None" = None,
    ) -> None:
        from headrace.gateway.delivery_queue import DeliveryQueue
        from headrace.gateway.load import Load
        from headrace.gateway.scrape import budgets_of, now_and_then
        from headrace.observe.metrics import Metrics

        self._client = client
        self._chat = chat
        self._embedder = None if vectors is None else vectors.embedder
        self._workers = [
            *(() if client is None else (client,)),
            *(() if vectors is None else (vectors.client,)),
        ]
        self._control = control
        self._stored = stored
        self._queue = queue
        self._load = Load()
        self._shelf = shelf
        self._door = door
        self._library = library
        self.deliveries = None if control is None else DeliveryQueue(control.database)
        self.metrics = Metrics()
        self.reloader: Reloader | None = None
        self._budgets = None if control is None else budgets_of(control.database)
        self._sources = None if library is None else now_and_then(source_ages(library))
        self.traces: Traces | None = None
        self.exporter: Exporter | None = None

    def open(self, settings: Settings) -> "Live":
        """The first services."""
        from headrace.gateway.live import Live

        opened = contextlib.AsyncExitStack()
        return Live(self._services(settings, opened), opened.aclose)

    async def exchange(self, live: "Live", settings: Settings) -> None:
        """Other services from now on.

        Raises: ConfigError; nothing has changed then.
        """
        opened = contextlib.AsyncExitStack()
        try:
            services = self._services(settings, opened)
        except BaseException:
            await opened.aclose()
            raise
        live.swap(services, opened.aclose)

    def _services(self, settings: Settings, opened: contextlib.AsyncExitStack) -> "Services":
        from headrace.gateway import admin, exporter
        from headrace.gateway.context import with_context
        from headrace.gateway.erasure import Erasure
        from headrace.gateway.price_sources import own_price, sources
        from headrace.gateway.prices import Prices
        from headrace.gateway.services import Limits, Services
        from headrace.gateway.traces import rules
        from headrace.observe.logs import RequestLog
        from headrace.providers.residency import Residency

        trace_rules = rules(settings.traces)
        otlp_rules = exporter.rules(settings.otlp, settings.providers)
        residency = Residency.of(settings)
        models = served_models(settings, self._chat, opened, residency)
        if self._library is not None:
            self._library.settle(settings.indexes)
            self._library.check_secrets()
        embedders = self._embedders(settings, opened, residency, models)
        fitted = with_context(models, settings.routes, self._library, embedders)
        models = fronted_models(settings, fitted, self._chat, self._control, self._shelf, residency)
        control, door = self._control, self._door
        extra = _pages(
            tuple(models),
            auth=settings.server.auth,
            login=door is not None,
            books=control is not None,
            traces=self.traces is not None,
        )
        keys = None if control is None else control.keys
        if door is not None:
            from headrace.gateway import login

            keys = door.people
            extra |= dict.fromkeys(login.PATHS, login.build(door))
        if control is not None:
            extra[admin.PREFIX] = admin.build(
                control.database,
                keys,
                config=self._config_state,
                changes=control.changes,
                traces=self.traces,
                served=frozenset((*models, *embedders)),
                erasure=Erasure(
                    control.database,
                    traces=self.traces,
                    files=None if self._queue is None else self._queue.files,
                    shelf=self._shelf,
                ),
            )
        if self.traces is not None:
            self.traces.use(trace_rules)
        if self.exporter is not None:
            self.exporter.use(otlp_rules)
        return Services(
            models=models,
            embedders=embedders,
            allowed_hosts=frozenset(name.lower() for name in settings.server.allowed_hosts),
            keys=keys,
            ledger=None if control is None else control.ledger,
            files=None if self._queue is None else self._queue.files,
            batches=self._queue,
            deliveries=self.deliveries,
            load=self._load,
            responses=self._stored,
            prices=None
            if control is None
            else Prices(control.prices, sources(settings.providers), own_price(settings.pricing)),
            metrics=self.metrics,
            health=self._health,
            engine_stats=self._engine_stats,
            budgets=self._budgets,
            sources=self._sources,
            sinks=(RequestLog(),),
            traces=self.traces,
            detail_sinks=tuple(s for s in (self.traces, self.exporter) if s is not None),
            limits=Limits(max_body_bytes=settings.server.max_body_bytes),
            residency=residency,
            indexes=self._library,
            extra=extra,
        )

    def _embedders(
        self,
        settings: Settings,
        opened: contextlib.AsyncExitStack,
        residency: "Residency",
        taken: Collection[str],
    ) -> "dict[str, ServedEmbedder]":
        from headrace.gateway.services import ServedEmbedder
        from headrace.providers.embedders import ResidentEmbedder, open_embedders
        from headrace.providers.residency import Place

        made: dict[str, ServedEmbedder] = {}
        if self._embedder is not None:
            here = Place(region=settings.routing.region)
            name = self._embedder.card.name
            made[name] = ServedEmbedder(
                embedder=ResidentEmbedder(here, self._embedder, residency),
                target=Target(provider="", model=name),
            )
        if settings.embedding_routes:
            for name, route in open_embedders(settings, opened, residency=residency).items():
                if name in made:
                    raise ConfigError(
                        f"embedding_routes.{name} has the name of the local encoder; give one of "
                        "them another"
                    )
                made[name] = ServedEmbedder(embedder=route.embedder, target=route.target)
        for name in made:
            if name in taken:
                raise ConfigError(
                    f"two models are called {name!r}; give the one that makes vectors another name"
                )
        return made

    def _config_state(self) -> "ConfigState | None":
        return None if self.reloader is None else self.reloader.state

    async def note_reading(self, reading: "Reading") -> None:
        """Write into the audit log how a reading of the settings went. Raises: StoreUnavailable."""
        from headrace.store.audit import Actor, record

        control = self._control
        if control is None:
            return
        action = "config.reload" if reading.accepted else "config.refuse"
        detail = {"changed": reading.changed, "restart": reading.restart}
        if reading.error:
            detail = {"error": reading.error[:_MOST_AUDITED]}

        async def work(connection: "AsyncConnection") -> None:
            actor = Actor(id=reading.by, role="admin", via=f"config of {control.worker}")
            await record(connection, actor, action, reading.file, detail=detail, now_s=reading.at_s)

        await control.database.write(work)

    def _health(self) -> "Health":
        from headrace.gateway.services import Health

        config = self._config_state()
        rejected = config is not None and not config.accepted
        away = "" if self._control is None else self._control.away
        return Health(
            started=all(worker.started for worker in self._workers),
            ready=all(worker.ready for worker in self._workers) and not away,
            reason=away or "; ".join(worker.reason for worker in self._workers if worker.reason),
            detail="the changed settings were rejected; the log says why" if rejected else "",
        )

    async def _engine_stats(self) -> "EngineStats | None":
        client = self._client
        if client is None or not client.ready:
            return None
        try:
            return _engine_stats(await client.stats(), client.restarts)
        except HeadraceError:
            return None


_PAGES = ("/", "/spend", "/requests", "/static/")


def _pages(
    models: tuple[str, ...], *, auth: bool, login: bool, books: bool, traces: bool
) -> "dict[str, ASGIApp]":
    """The pages, made when one is first asked for: many a service shows none; Jinja is large."""
    made: ASGIApp | None = None

    async def app(scope: "Scope", receive: "Receive", send: "Send") -> None:
        nonlocal made
        if made is None:
            from headrace.console.pages import PageInfo, build

            info = PageInfo(
                models=models,
                auth=auth,
                login=login,
                books=books,
                traces=traces,
                version=__version__,
            )
            made = build(lambda: info)
        await made(scope, receive, send)

    return dict.fromkeys(_PAGES, app)


@contextlib.asynccontextmanager
async def following(
    house: House, live: "Live", settings: Settings, source: SettingsSource
) -> AsyncGenerator[None]:
    """Take over changed settings, until the end of the block."""
    from headrace.gateway.http import stop
    from headrace.gateway.reload import Reloader

    async def apply(changed: Settings) -> None:
        await house.exchange(live, changed)

    reloader = Reloader(
        source.file,
        settings,
        load=source.load,
        apply=apply,
        metrics=house.metrics,
        note=house.note_reading,
    )
    house.reloader = reloader
    loop = asyncio.get_running_loop()
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None:
        loop.add_signal_handler(hangup, reloader.wake)
    task = asyncio.create_task(reloader.run())
    try:
        yield
    finally:
        await stop(task)
        if hangup is not None:
            loop.remove_signal_handler(hangup)


@contextlib.asynccontextmanager
async def working_off(
    settings: Settings, live: "Live", queue: "BatchQueue", *, worker: str
) -> AsyncGenerator[None]:
    """Work off batches, until the end of the block."""
    from headrace.gateway.batch_runner import BatchLimits, BatchRunner
    from headrace.gateway.http import stop

    identify = _later(settings, queue.database)
    limits = BatchLimits(
        local_lines=settings.batches.local_lines, provider_lines=settings.batches.provider_lines
    )
    runner = BatchRunner(live, queue, identify=identify, limits=limits, worker=worker)
    task = asyncio.create_task(runner.run())
    try:
        yield
    finally:
        await stop(task)


@contextlib.asynccontextmanager
async def delivering(
    settings: Settings, live: "Live", queue: "DeliveryQueue", *, worker: str
) -> AsyncGenerator[None]:
    """Work off what webhooks bring, until the end of the block."""
    from headrace.gateway.delivery_runner import DeliveryRunner
    from headrace.gateway.http import stop

    identify = _later(settings, queue.database)
    runner = DeliveryRunner(live, queue, identify=identify, worker=worker)
    task = asyncio.create_task(runner.run())
    try:
        yield
    finally:
        await stop(task)


def _later(
    settings: Settings, database: "Database"
) -> "Callable[[str, str, str], Awaitable[Caller]]":
    """Who asked for something that runs later, by (key id, feature, route), as it is then."""
    from headrace.gateway.keys import caller_by_id

    async def identify(key: str, feature: str, route: str) -> Caller:
        if not settings.server.auth:
            return Caller(role="admin")
        return await caller_by_id(database, key, feature=feature, route=route, now_s=time.time())

    return identify


def _engine_stats(values: dict[str, float], restarts: int) -> "EngineStats":
    from headrace.observe.metrics import EngineStats

    return EngineStats(
        running=int(values["running"]),
        waiting=int(values["waiting"]),
        kv_blocks_used=int(values["blocks_used"]),
        kv_blocks_cached=int(values["blocks_cached"]),
        kv_blocks_total=int(values["blocks_total"]),
        preemptions=int(values["counters.preemptions"]),
        restarts=restarts,
        tokens={
            kind: int(values[f"counters.{kind}"])
            for kind in ("prompt", "cached", "completion", "recomputed")
        },
    )
