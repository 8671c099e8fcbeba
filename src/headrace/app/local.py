"""Models of one's own: in this process, or in a worker that ends with a command.

A local model's stack of backends is folded in `local_chat`; whatever decorates one joins there.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from headrace.app.paths import NO_MODEL, embedding_name, embedding_path, model_name, model_path
from headrace.config import EngineSettings, Settings
from headrace.errors import ConfigError, NotFound
from headrace.types import (
    Backend,
    ChatRequest,
    CompletionBackend,
    CompletionRequest,
    Embedder,
    Event,
    ModelCard,
    SamplingParams,
    TokenCounter,
    TokenEvent,
)

if TYPE_CHECKING:
    from headrace.engine.chat import EngineChat
    from headrace.engine.client import EngineClient
    from headrace.engine.core import EngineCore
    from headrace.engine.rollouts import RolloutEngine
    from headrace.model.decoder import Decoder


@contextlib.asynccontextmanager
async def open_embedder(settings: Settings) -> "AsyncGenerator[Embedder]":
    """An embedder for one command: a worker of its own that ends with it.

    Raises:
        ConfigError: `embeddings.path` is empty.
        HeadraceError: The model cannot be loaded.
    """
    found = local_embedder(settings)
    if found is None:
        raise ConfigError('embeddings.path is empty; set it to a checkpoint, or to "minilm"')
    async with found.client:
        yield found.embedder


class LocalEmbedder(NamedTuple):
    client: "EngineClient"
    """Not started."""
    embedder: Embedder


def local_embedder(settings: Settings) -> LocalEmbedder | None:
    """The encoder of the settings in a worker of its own; None where there is none."""
    path = embedding_path(settings)
    if path is None:
        return None
    from headrace.engine.embedder import EngineEmbedder, vector_client
    from headrace.providers.metered import MeteredEmbedder

    client, name = vector_client(path, settings), embedding_name(settings)
    embedder = EngineEmbedder.load(client, path, name, settings.embeddings)
    return LocalEmbedder(client, MeteredEmbedder("", name, embedder))


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
    counter: TokenCounter | None = None
    """Counts a conversation as the model reads it; None = only its server can."""

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
    from headrace.gateway.index_answers import Rendered

    async with EngineClient(path, settings) as client:
        chat = local_chat(client, path, settings)
        yield Opened(card=chat.card, chat=chat, completions=chat, counter=Rendered(chat))


def local_chat(client: "EngineClient", path: Path, settings: Settings) -> "EngineChat":
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


def local_engine(settings: Settings) -> "tuple[EngineClient, Path] | None":
    """The engine's client, not started, and its checkpoint; None where no model is served."""
    if settings.model.path == NO_MODEL:
        return None
    from headrace.engine.client import EngineClient

    path = model_path(settings)
    return EngineClient(path, settings), path
