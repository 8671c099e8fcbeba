"""What a pack was counted to have is what the engine says that it read."""

from dataclasses import replace

import pytest

from headrace.app import bundled_model
from headrace.config import EngineSettings, Settings
from headrace.engine.chat import EngineChat
from headrace.engine.client import EngineClient
from headrace.types import ModelCard, SamplingParams, collect
from random_packs import random_pack

SETTINGS = Settings(engine=EngineSettings(threads=1, kv_cache_bytes=16 << 20))
ONE = SamplingParams(temperature=0.0, max_tokens=1)


async def compare(packs: range) -> None:
    path = bundled_model()
    async with EngineClient(path, SETTINGS, wait_s=60.0) as client:
        card = ModelCard(name="sprout", context_tokens=client.info.context_tokens, created_s=0)
        backend = EngineChat.load(client, path, card)
        for seed in packs:
            packed = await random_pack(seed)
            answer = await collect(backend.stream(replace(packed.request, sampling=ONE)))
            assert packed.tokens == answer.started.prompt_tokens == answer.usage.prompt_tokens
            assert packed.tokens <= packed.budget


@pytest.mark.asyncio
async def test_the_engine_reads_as_many_tokens_as_were_packed() -> None:
    await compare(range(50))


@pytest.mark.slow
@pytest.mark.asyncio
async def test_the_engine_reads_as_many_tokens_as_were_packed_in_a_thousand() -> None:
    await compare(range(1000))
