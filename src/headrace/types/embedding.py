"""Texts to vectors: what is asked, what comes back, who makes it."""

from dataclasses import dataclass, field
from typing import Protocol

from headrace.types.usage import Caller, Priority, Trail, Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedderCard:
    """What a client may know of a model that makes vectors."""

    name: str
    dimensions: int
    """Of a whole vector; 0 = not known before the first answer (a provider's)."""
    max_tokens: int
    """Longest input, its marks and prompt counted; 0 = only its provider knows."""
    created_s: int
    fingerprint: str = ""
    """Equal fingerprints give equal vectors; vectors of different ones must not be compared."""
    min_dimensions: int = 0
    """Vectors may be cut down to so many numbers; 0 = not at all."""
    prompts: tuple[str, ...] = ()
    """Names that `EmbedRequest.prompt` may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedRequest:
    """Texts to become vectors, all of one kind."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    """Texts, or ids exactly as the model is to read them: no mark or prompt is added to those."""
    prompt: str = ""
    """What the texts are, for models that want to know: one of the card's `prompts`, as a rule
    `query` or `passage`; empty = the model's own default."""
    dimensions: int | None = None
    """Cut vectors to so many numbers and normalize again; None = whole."""
    truncate: bool = False
    """Cut inputs that are too long, and say which; False = refuse them."""
    priority: Priority = Priority.INTERACTIVE
    deadline_s: float | None = None
    caller: Caller = Caller()
    trace: str = ""
    trail: Trail = field(default_factory=Trail, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """Vectors in the order of the inputs."""

    data: bytes
    """float32, little-endian, one row of `dimensions` numbers after the other."""
    dimensions: int
    usage: Usage
    """`prompt_tokens` as the model read them: marks, prompts, and no more than was kept."""
    truncated: tuple[int, ...] = ()
    """Positions of the inputs that were cut; never any but where `truncate` allowed it."""

    @property
    def count(self) -> int:
        return len(self.data) // (4 * self.dimensions)

    def row(self, index: int) -> "memoryview[float]":
        """One vector, as a view of C floats."""
        size = 4 * self.dimensions
        return memoryview(self.data)[index * size : (index + 1) * size].cast("f")


class Embedder(Protocol):
    """Whatever makes vectors: the engine, a provider.

    Invariants: an input's vector depends on that input, the prompt and the dimensions alone, not
    on its neighbours (in the engine bit for bit); nothing is truncated that the request did not
    allow, and what was is said; cancelling the call cancels the work.
    """

    @property
    def card(self) -> EmbedderCard: ...

    async def count(self, request: EmbedRequest) -> tuple[int, ...]:
        """Tokens of each input as `embed` would bill it: exactly where the model is ours, else at
        least so many. Raises what `embed` would raise of the inputs.
        """
        ...

    async def embed(self, request: EmbedRequest) -> Embedded:
        """The vectors.

        Raises:
            ContextLengthExceeded: An input that is too long; names it, its length and the limit.
            InvalidParameter, UnsupportedParameter: A prompt or dimensions the model does not have.
        """
        ...
