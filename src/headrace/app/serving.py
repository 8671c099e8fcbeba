"""The service from its start to its end: listening, starting workers, draining."""

import asyncio
import contextlib
import gc
import ipaddress
import signal
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from headrace import __version__
from headrace.app.house import House, SettingsSource, delivering, following, working_off
from headrace.app.indexes import (
    check_home,
    forgotten_in,
    open_library,
    tidying,
    watching,
    with_embedder,
)
from headrace.app.local import local_chat, local_embedder, local_engine
from headrace.app.stores import (
    answer_shelf,
    batch_queue,
    following_deletions,
    stored_responses,
)
from headrace.config import Settings, secret, state_dir, store_url, trace_url
from headrace.errors import ConfigError

if TYPE_CHECKING:
    from headrace.engine.client import EngineClient
    from headrace.gateway.control import Control
    from headrace.gateway.door import Door
    from headrace.gateway.services import Services


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
    from headrace.gateway.server import Protocol, application
    from headrace.gateway.traces import open_traces
    from headrace.observe import logs

    logs.set_up(settings.logs)
    listener = _listen(settings.server.host, settings.server.port)
    local, vectors = local_engine(settings), local_embedder(await with_embedder(settings))
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
        stored = await stack.enter_async_context(stored_responses(settings, control))
        if clients:
            starting = asyncio.create_task(_start(clients))
        door = None
        if settings.oidc.issuer:
            door = await stack.enter_async_context(people_door(settings, control, listener))
        client = chat = None
        if local is not None:
            client, path = local
            # While the worker imports and loads, this process reads the tokenizer.
            chat = await asyncio.to_thread(local_chat, client, path, settings)
        queue = None if control is None else batch_queue(settings, control.database)
        shelf = await stack.enter_async_context(answer_shelf(settings, control))
        library = None
        if vectors is not None or settings.embedding_routes or settings.indexes:
            library = await stack.enter_async_context(
                open_library(settings, forgotten=forgotten_in(control, stored, shelf))
            )
            await check_home(settings, library)
            await stack.enter_async_context(tidying(settings, library))
            await stack.enter_async_context(watching(settings, library, control))
        house = House(
            client=client,
            chat=chat,
            vectors=vectors,
            control=control,
            stored=stored,
            queue=queue,
            shelf=shelf,
            door=door,
            library=library,
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
        if library is not None:
            await stack.enter_async_context(
                following_deletions(settings, house.traces, queue, control, stored, shelf)
            )
        live = house.open(settings)
        stack.push_async_callback(live.aclose)
        if queue is not None and control is not None:
            await working.enter_async_context(
                working_off(settings, live, queue, worker=control.worker)
            )
        if house.deliveries is not None and library is not None and control is not None:
            await working.enter_async_context(
                delivering(settings, live, house.deliveries, worker=control.worker)
            )
        if source is not None:
            await stack.enter_async_context(following(house, live, settings, source))
        server = uvicorn.Server(
            uvicorn.Config(
                application(build(live)),
                interface="asgi3",
                http=Protocol,
                proxy_headers=False,  # `application` reads them for pages
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
        gc.set_threshold(20_000, 10, 10)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        if starting is not None:
            await asyncio.wait({starting, serving}, return_when=asyncio.FIRST_COMPLETED)
        if starting is not None and starting.done() and starting.exception() is not None:
            server.should_exit = True
            await serving
        elif starting is None or starting.done():
            while not (server.started or serving.done()):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.005)  # before, nobody hears the signal that is to end it
            new_key = None if control is None else control.new_key
            say(_welcome(settings, listener, live.services, new_key))
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


def people_door(
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


def _names(services: "Services") -> str:
    names = [*services.models, *services.embedders]
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _welcome(
    settings: Settings, listener: socket.socket, services: "Services", new_key: str | None
) -> str:
    name = _shown_name(services)
    host, port = listener.getsockname()[:2]
    url = _url(host, port)
    lines = [f"headrace {__version__} serves {_names(services)} at {url}", ""]
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
