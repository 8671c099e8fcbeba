"""The engine as an `Embedder`: texts → ids here, vectors in the worker, cut and counted here.

    client = vector_client(path, settings)
    async with client:
        embedder = EngineEmbedder.load(client, path, settings.embeddings)
        answer = await embedder.embed(EmbedRequest(model="minilm", inputs=("a text",)))

Loads no torch: the gateway's process pays for the tokenizer only.
"""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from headrace.config import EmbeddingSettings, EngineSettings, ModelSettings, Settings
from headrace.engine.client import EngineClient
from headrace.engine.inputs import Encoded, InputEncoder
from headrace.errors import ConfigError, InvalidParameter, UnsupportedParameter
from headrace.model.encoder_config import EncoderConfig
from headrace.model.files import read_json, read_tensors
from headrace.model.fingerprint import fingerprint
from headrace.model.sentences import SentenceConfig, read_sentences
from headrace.tokens import Tokenizer
from headrace.types import Embedded, EmbedderCard, EmbedRequest, Usage

_INLINE_CHARACTERS = 4096
"""Above it tokenizing goes to a thread, that other streams may go on."""
KERNELS = ("auto", "native", "torch")
_COMMAND = (sys.executable, "-m", "headrace.engine.vector_worker")


def vector_client(path: Path, settings: Settings) -> EngineClient:
    """The client of a worker that serves this encoder; not started yet.

    Raises: ConfigError: Settings that contradict each other.
    """
    own = settings.embeddings
    if own.batch_tokens < 1:
        raise ConfigError(f"embeddings.batch_tokens = {own.batch_tokens} is below 1")
    if own.kernels not in KERNELS:
        raise ConfigError(
            f"embeddings.kernels = {own.kernels!r} is not one of {', '.join(KERNELS)}"
        )
    model = ModelSettings(
        path=str(path), dtype=own.dtype, device=own.device, context_tokens=own.max_tokens
    )
    engine = EngineSettings(
        kernels=own.kernels,
        threads=own.threads,
        max_batch_tokens=own.batch_tokens,
        max_queued_requests=own.max_queued_requests,
        max_queued_tokens=own.max_queued_tokens,
        step_timeout_s=own.step_timeout_s,
    )
    return EngineClient(path, replace(settings, model=model, engine=engine), command=_COMMAND)


class EngineEmbedder:
    """An `Embedder` over a worker."""

    def __init__(
        self, client: EngineClient, inputs: InputEncoder, card: EmbedderCard, *, truncate: bool
    ) -> None:
        """Join them; `truncate` = cut long inputs also where a request does not say so."""
        self._client = client
        self._inputs = inputs
        self._card = card
        self._truncate = truncate

    @classmethod
    def load(
        cls, client: EngineClient, path: Path, name: str, settings: EmbeddingSettings
    ) -> "EngineEmbedder":
        """Read a checkpoint's tokenizer and what its files say; no weights.

        Raises:
            CheckpointError, TokenizerError: A directory that cannot be read.
            ConfigError: Settings that the checkpoint contradicts.
        """
        config = EncoderConfig.from_hf(read_json(path / "config.json"))
        sentences = _with_settings(read_sentences(path, config), settings, config)
        inputs = InputEncoder(Tokenizer.load(path), sentences, vocab_size=config.vocab_size)
        weights = {entry.file for entry in read_tensors(path).values()}
        card = EmbedderCard(
            name=name,
            dimensions=config.hidden_size,
            max_tokens=sentences.max_tokens,
            created_s=int(path.stat().st_mtime),
            fingerprint=fingerprint(path, weights),
            min_dimensions=settings.min_dimensions,
            prompts=inputs.prompts,
        )
        return cls(client, inputs, card, truncate=settings.truncate)

    @property
    def card(self) -> EmbedderCard:
        return self._card

    async def count(self, request: EmbedRequest) -> tuple[int, ...]:
        """As `Embedder.count`, exactly."""
        self._check_dimensions(request)
        return tuple(len(ids) for ids in (await self._encode(request)).inputs)

    async def embed(self, request: EmbedRequest) -> Embedded:
        """As `Embedder.embed`."""
        self._check_dimensions(request)
        encoded = await self._encode(request)
        data = await self._client.embed(
            encoded.inputs,
            deadline_s=request.deadline_s,
            priority=request.priority,
            request_id=request.trace,
        )
        dimensions = request.dimensions or self._card.dimensions
        if dimensions != self._card.dimensions:
            data = cut(data, self._card.dimensions, dimensions)
        return Embedded(
            data=data,
            dimensions=dimensions,
            usage=Usage(prompt_tokens=encoded.tokens),
            truncated=encoded.truncated,
        )

    async def _encode(self, request: EmbedRequest) -> Encoded:
        if self._truncate and not request.truncate:
            request = replace(request, truncate=True)
        size = sum(len(item) for item in request.inputs)
        if size <= _INLINE_CHARACTERS:
            return self._inputs.encode(request)
        return await asyncio.to_thread(self._inputs.encode, request)

    def _check_dimensions(self, request: EmbedRequest) -> None:
        wanted, card = request.dimensions, self._card
        if wanted is None or wanted == card.dimensions:
            return
        if not card.min_dimensions:
            raise UnsupportedParameter(
                f"`dimensions` {wanted}: {card.name} was not trained for shorter vectors than its "
                f"{card.dimensions}; leave `dimensions` out",
                param="dimensions",
            )
        if not card.min_dimensions <= wanted <= card.dimensions:
            raise InvalidParameter(
                f"`dimensions` {wanted} is not within {card.min_dimensions} to {card.dimensions}, "
                f"which {card.name} makes",
                param="dimensions",
            )


def cut(data: bytes, dimensions: int, kept: int) -> bytes:
    """The first `kept` of each row's numbers, of length one again.

    Source: Kusupati et al. 2022, arXiv 2205.13147.
    """
    rows = np.frombuffer(data, dtype="<f4").reshape(-1, dimensions)[:, :kept]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(lengths, np.float32(1e-12))).astype("<f4").tobytes()


def _with_settings(
    sentences: SentenceConfig, settings: EmbeddingSettings, config: EncoderConfig
) -> SentenceConfig:
    if not 0 <= settings.max_tokens <= config.max_tokens:
        raise ConfigError(
            f"embeddings.max_tokens = {settings.max_tokens}: the checkpoint has positions for "
            f"{config.max_tokens}"
        )
    if not 0 <= settings.min_dimensions <= config.hidden_size:
        raise ConfigError(
            f"embeddings.min_dimensions = {settings.min_dimensions}: the checkpoint's vectors have "
            f"{config.hidden_size}"
        )
    given = {"query": settings.query_prompt, "passage": settings.passage_prompt}
    prompts = {**sentences.prompts, **{name: text for name, text in given.items() if text}}
    longest = settings.max_tokens or sentences.max_tokens
    return replace(sentences, max_tokens=longest, prompts=prompts)
