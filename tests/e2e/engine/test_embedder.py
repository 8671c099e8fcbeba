"""A worker of its own that serves an encoder: real process, real socket, a small checkpoint."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

import encoders
from headrace.config import EmbeddingSettings, Settings
from headrace.engine.client import EngineClient
from headrace.engine.embedder import EngineEmbedder, vector_client
from headrace.errors import (
    CheckpointError,
    ConfigError,
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidParameter,
    UnsupportedParameter,
    UserError,
    WorkerDied,
)
from headrace.types import Embedded, EmbedRequest, SamplingParams

TEXTS = tuple(encoders.texts(40))
SETTINGS = Settings(embeddings=EmbeddingSettings(threads=1, batch_tokens=200, min_dimensions=16))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompts = {"query": "query: "}
    return encoders.make(tmp_path_factory.mktemp("encoder") / "m", prompts=prompts, max_tokens=40)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(checkpoint: Path) -> AsyncGenerator[EngineClient]:
    async with vector_client(checkpoint, SETTINGS) as started:
        yield started


@pytest.fixture
def embedder(client: EngineClient, checkpoint: Path) -> EngineEmbedder:
    return EngineEmbedder.load(client, checkpoint, "tiny", SETTINGS.embeddings)


pytestmark = pytest.mark.asyncio(loop_scope="module")


def _request(*texts: str | tuple[int, ...]) -> EmbedRequest:
    return EmbedRequest(model="tiny", inputs=texts)


def _rows(answer: Embedded) -> np.ndarray:
    rows = np.frombuffer(answer.data, dtype="<f4").reshape(answer.count, answer.dimensions)
    assert answer.row(0).tolist() == rows[0].tolist()
    return rows


async def test_alone_and_among_others_a_text_has_one_vector(embedder: EngineEmbedder) -> None:
    together = _rows(await embedder.embed(_request(*TEXTS)))
    alone = await asyncio.gather(*(embedder.embed(_request(text)) for text in TEXTS))
    assert together.shape == (40, 48)
    for row, answer in zip(together, alone, strict=True):
        assert np.abs(row - _rows(answer)[0]).max() <= 1e-6
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


async def test_counts_are_the_usage(embedder: EngineEmbedder) -> None:
    request = replace(_request(*TEXTS[:5], (2, 9, 3)), prompt="query")
    counts = await embedder.count(request)
    answer = await embedder.embed(request)
    assert sum(counts) == answer.usage.prompt_tokens
    assert counts[-1] == 3
    plain = await embedder.count(replace(request, prompt=""))
    longer = counts[0] - plain[0]
    assert longer > 0
    assert [a - b for a, b in zip(counts, plain, strict=True)] == [longer] * 5 + [0]


async def test_a_long_text_is_refused_or_cut_and_told(embedder: EngineEmbedder) -> None:
    long = "the of and " * 30
    with pytest.raises(ContextLengthExceeded, match=r"`input\[1\]` has 92 tokens .* reads 40"):
        await embedder.embed(_request("the", long))
    answer = await embedder.embed(replace(_request("the", long), truncate=True))
    assert answer.truncated == (1,)
    assert answer.usage.prompt_tokens == 3 + 40


async def test_dimensions(embedder: EngineEmbedder, client: EngineClient, checkpoint: Path) -> None:
    whole = _rows(await embedder.embed(_request(*TEXTS[:3])))
    part = _rows(await embedder.embed(replace(_request(*TEXTS[:3]), dimensions=20)))
    wanted = whole[:, :20] / np.linalg.norm(whole[:, :20], axis=1, keepdims=True)
    assert np.abs(part - wanted).max() <= 1e-6
    with pytest.raises(InvalidParameter, match="`dimensions` 15 is not within 16 to 48"):
        await embedder.embed(replace(_request("the"), dimensions=15))
    untrained = EngineEmbedder.load(client, checkpoint, "tiny", EmbeddingSettings())
    with pytest.raises(UnsupportedParameter, match="not trained for shorter vectors"):
        await untrained.embed(replace(_request("the"), dimensions=20))


async def test_prompts(embedder: EngineEmbedder) -> None:
    asked = _rows(await embedder.embed(replace(_request("the"), prompt="query")))
    spelled = _rows(await embedder.embed(_request("query: the")))
    assert np.abs(asked - spelled).max() <= 1e-6
    with pytest.raises(UnsupportedParameter, match=r"'passage' is not a prompt .* it has: query"):
        await embedder.embed(replace(_request("the"), prompt="passage"))


async def _until(client: EngineClient, *, queued: bool) -> None:
    async with asyncio.timeout(30):
        while bool((await client.stats())["queued_tokens"]) is not queued:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("ids", [(), (999,), (-1,)])
async def test_bad_ids(embedder: EngineEmbedder, ids: tuple[int, ...]) -> None:
    with pytest.raises(InvalidParameter, match=r"input\[0\]"):
        await embedder.embed(_request(ids))


async def test_a_mark_in_a_text_is_text(embedder: EngineEmbedder) -> None:
    [count] = await embedder.count(_request("[SEP]"))
    assert count > 3  # spelled out, not one token between the marks


async def test_a_deadline(embedder: EngineEmbedder) -> None:
    with pytest.raises(DeadlineExceeded):
        await embedder.embed(replace(_request(*TEXTS), deadline_s=0.0))


async def test_what_is_cancelled_leaves_the_worker(
    embedder: EngineEmbedder, client: EngineClient
) -> None:
    task = asyncio.create_task(embedder.embed(_request(*(TEXTS * 200))))
    await _until(client, queued=True)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _until(client, queued=False)
    await embedder.embed(_request("the"))


async def test_a_decoder_s_call_is_refused(client: EngineClient) -> None:
    with pytest.raises(UserError, match="encoder"):
        async for _ in client.generate([1], SamplingParams()):
            pass


async def test_a_worker_that_dies_is_started_again(
    embedder: EngineEmbedder, client: EngineClient
) -> None:
    before = _rows(await embedder.embed(_request(*TEXTS[:2])))
    task = asyncio.create_task(embedder.embed(_request(*(TEXTS * 200))))
    await _until(client, queued=True)
    os.kill(client.info.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        await task
    async with asyncio.timeout(60):
        while not client.ready:  # noqa: ASYNC110 - a process in another process
            await asyncio.sleep(0.05)
    assert client.restarts == 1
    assert np.array_equal(before, _rows(await embedder.embed(_request(*TEXTS[:2]))))


async def test_a_checkpoint_that_cannot_be_loaded(tmp_path: Path, checkpoint: Path) -> None:
    directory = encoders.make(tmp_path / "m")
    (directory / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        async with vector_client(directory, SETTINGS):
            pass
    wrong = replace(SETTINGS.embeddings, kernels="fast")
    with pytest.raises(ConfigError, match=r"embeddings\.kernels = 'fast'"):
        vector_client(checkpoint, replace(SETTINGS, embeddings=wrong))
