"""`headrace chat`: a conversation in the terminal, streamed; Ctrl-C stops an answer, not the chat.

The asyncio loop runs in a thread of its own, so that waiting for a line blocks nobody and Ctrl-C
reaches this thread, whatever it waits for.
"""

import asyncio
import concurrent.futures
import contextlib
import importlib
import sys
import threading
from collections.abc import Coroutine, Generator
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from headrace.app import Opened
from headrace.cli import connect, report
from headrace.cli.generate import sampling_of
from headrace.cli.terminal import show, visible
from headrace.errors import HeadraceError, UserError
from headrace.types import (
    ChatRequest,
    Event,
    Message,
    ReasoningDelta,
    Role,
    SamplingParams,
    TextDelta,
    TextPart,
)

T = TypeVar("T")

_COMMANDS = "/reset starts anew, /exit or Ctrl-D leaves, Ctrl-C stops an answer"
_STOP_S = 10.0
"""How long a stopped answer may take to be given up by its backend."""


def chat(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(help="Checkpoint or hub id; with --url, the name there."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="A server to ask [one on port 8080, else the model runs here]."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Its API key [$OPENAI_API_KEY].")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of an answer [to the context's end].")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 = the likeliest token [the model's].")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same answers.")] = None,
) -> None:
    """Talk with a model in the terminal."""
    source = connect.choose(report.settings(ctx), model=model, url=url, key=key)
    sampling = sampling_of({"max_tokens": max_tokens, "temperature": temperature, "seed": seed})
    with _loop() as loop, contextlib.ExitStack() as stack:
        opening = connect.connected(source)
        backend = _wait(loop, opening.__aenter__())
        stack.callback(lambda: _wait(loop, opening.__aexit__(None, None, None)))
        _Talk(
            loop=loop,
            backend=backend,
            model=source.model or backend.card.name,
            system=system,
            sampling=sampling,
        ).run(source.label)


class _Talk:
    """The conversation so far and the terminal it is held in."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        backend: Opened,
        model: str,
        system: str | None,
        sampling: SamplingParams,
    ) -> None:
        self._loop = loop
        self._backend = backend
        self._model = model
        self._sampling = sampling
        self._opening = (_message(Role.SYSTEM, system),) if system else ()
        self._history: tuple[Message, ...] = ()
        self._remarks: Console = report.progress_console()
        self._asks = sys.stdin.isatty() and sys.stdout.isatty()

    def run(self, label: str) -> None:
        """Lines in, answers out, until the input ends; a pipe gets the answers alone."""
        if self._asks:
            with contextlib.suppress(ImportError):
                importlib.import_module("readline")  # gives input() line editing and history
            self._remark(f"{self._model} · {label}\n{_COMMANDS}\n")
        while True:
            try:
                line = input("> " if self._asks else "").strip()
            except UnicodeDecodeError as error:
                raise UserError("the input is not UTF-8; write it so") from error
            except EOFError:
                if self._asks:
                    sys.stdout.write("\n")
                return
            except KeyboardInterrupt:
                if not self._asks:
                    raise
                sys.stdout.write("\n")
                self._remark(_COMMANDS)
                continue
            match line:
                case "":
                    continue
                case "/exit" | "/quit":
                    return
                case "/reset":
                    self._history = ()
                    self._remark("a new conversation")
                case _ if line.startswith("/"):
                    self._remark(f"no command {line.split()[0]}: {_COMMANDS}")
                case _:
                    self._turn(connect.text_of(line))

    def _turn(self, line: str) -> None:
        asked = (*self._history, _message(Role.USER, line))
        tally = connect.Tally()
        ended = threading.Event()
        request = ChatRequest(
            model=self._model, messages=self._opening + asked, sampling=self._sampling
        )
        running = asyncio.run_coroutine_threadsafe(self._follow(request, tally, ended), self._loop)
        stopped = False
        try:
            running.result()
        except KeyboardInterrupt:
            stopped = True
            running.cancel()
            ended.wait(_STOP_S)
        except HeadraceError as error:
            if not self._asks:
                raise
            self._remark(f"error: {error.message}", style="red")
        if tally.text:
            sys.stdout.write("" if tally.text.endswith("\n") else "\n")
            self._history = (*asked, _message(Role.ASSISTANT, tally.text))
        sys.stdout.flush()
        if stopped:
            self._remark("stopped")
        elif self._asks and tally.finish is not None:
            self._remark(f"{tally.facts()}\n")

    async def _follow(
        self, request: ChatRequest, tally: connect.Tally, ended: threading.Event
    ) -> None:
        try:
            async for event in self._backend.stream(request):
                tally.add(event)
                self._show(event)
        finally:
            ended.set()

    def _show(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            show(sys.stdout, event.text)
        elif isinstance(event, ReasoningDelta) and self._asks:
            self._remarks.print(visible(event.text), style="dim italic", markup=False, end="")

    def _remark(self, text: str, *, style: str = "dim") -> None:
        self._remarks.print(visible(text), style=style, markup=False)


def _message(role: Role, text: str) -> Message:
    return Message(role=role, parts=(TextPart(text=text),))


@contextlib.contextmanager
def _loop() -> Generator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="headrace-chat", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        _wait(loop, loop.shutdown_asyncgens())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_STOP_S)
        if not thread.is_alive():
            loop.close()


def _wait(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    running: concurrent.futures.Future[T] = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return running.result()
    except KeyboardInterrupt:
        running.cancel()
        raise
