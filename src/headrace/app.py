"""The composition root: settings become objects here, and only here does a room meet its users.

The only module with lazy imports: a command pays for what it uses, `headrace --help` for nothing.
The stack of backends is folded once, in `_local`; whatever decorates a `Backend` joins there.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.config import Settings
from headrace.errors import NotFound
from headrace.types import (
    Backend,
    ChatRequest,
    CompletionBackend,
    CompletionRequest,
    Event,
    ModelCard,
    SamplingParams,
    TokenEvent,
)

if TYPE_CHECKING:
    from headrace.engine.chat import EngineChat
    from headrace.engine.client import EngineClient
    from headrace.engine.core import EngineCore


def bundled_model() -> Path:
    """Directory of sprout, the model that comes with the package."""
    return Path(__file__).parent / "sprout"


def model_path(settings: Settings) -> Path:
    """The checkpoint to serve: a directory, a hub id fetched once, or the bundled model."""
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
    import torch

    from headrace.engine.core import EngineCore
    from headrace.engine.worker import physical_cores
    from headrace.model.checkpoint import load

    torch.set_num_threads(settings.engine.threads or physical_cores())
    model = settings.model
    device = model.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "float32" if model.dtype == "auto" and not model.path else model.dtype
    checkpoint = load(
        model_path(settings), dtype=dtype, device=device, context_tokens=model.context_tokens
    )
    core = EngineCore(
        checkpoint.decoder,
        settings.engine,
        fingerprint=checkpoint.fingerprint,
        context_tokens=model.context_tokens or None,
    )
    return OfflineEngine(core)


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
