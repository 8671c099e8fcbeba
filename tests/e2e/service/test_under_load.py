"""Many streams at once, a worker killed under them, a drain: nobody is lost or mixed up."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import openai
import pytest

from service import Service, running

PROMPTS = [f"def function_{i}(value_{i}):" for i in range(64)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service"), sets=["engine.threads=2"]) as ready:
        yield ready


async def _complete(client: openai.AsyncOpenAI, prompt: str, max_tokens: int) -> str:
    stream = await client.completions.create(
        model="sprout",
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    return "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])


async def _load(service: Service, *, prompts: list[str], max_tokens: int, seconds: float) -> int:
    """Streams that differ from their solo greedy answer fail; returns how many were run."""
    url = service.url + "/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        solo = {prompt: await _complete(client, prompt, max_tokens) for prompt in prompts}
        done = 0
        until = time.monotonic() + seconds

        async def one(prompt: str) -> None:
            nonlocal done
            while True:
                assert await _complete(client, prompt, max_tokens) == solo[prompt]
                done += 1
                if time.monotonic() > until:
                    return

        await asyncio.gather(*(one(prompt) for prompt in prompts))
    return done


async def test_concurrent_streams_do_not_mix(service: Service) -> None:
    assert await _load(service, prompts=PROMPTS[:16], max_tokens=24, seconds=2) >= 16


@pytest.mark.slow
async def test_sixty_four_streams_for_a_minute(service: Service) -> None:
    assert await _load(service, prompts=PROMPTS, max_tokens=64, seconds=60) >= 64


def _tokens(service: Service, metric: str) -> dict[str, float]:
    lines = [line for line in service.get("/metrics")[1].splitlines() if line.startswith(metric)]
    return {
        kind: sum(float(line.rsplit(" ", 1)[1]) for line in lines if f'kind="{kind}"' in line)
        for kind in ("prompt", "cached", "completion")
    }


def test_the_books_balance(service: Service) -> None:
    deadline = time.monotonic() + 5
    while service.gauge("headrace_engine_running") and time.monotonic() < deadline:
        time.sleep(0.05)
    billed = _tokens(service, "headrace_tokens_total{")
    assert billed["completion"] > 0
    assert billed == _tokens(service, "headrace_engine_tokens_total{")


async def test_worker_killed_mid_stream(service: Service) -> None:
    url = service.url + "/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        stream = await client.completions.create(
            model="sprout",
            prompt="x = ",
            max_tokens=900,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        await anext(aiter(stream))
        os.kill(service.worker_pid(), signal.SIGKILL)
        with pytest.raises(openai.APIError, match="engine"):
            async for _ in stream:
                pass
        assert service.get("/livez")[0] == 200
        service.wait_ready()
        assert await _complete(client, "x = ", 4)


def test_sigterm_lets_a_running_answer_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("drained")) as service:
        client = openai.OpenAI(base_url=service.url + "/v1", api_key="none", max_retries=0)
        stream = client.completions.create(
            model="sprout",
            prompt="x = ",
            max_tokens=200,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        chunks = iter(stream)
        next(chunks)
        service.process.send_signal(signal.SIGTERM)
        finish = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1]
        assert finish == "length"
        client.close()
        assert service.process.wait(timeout=20) == 0
