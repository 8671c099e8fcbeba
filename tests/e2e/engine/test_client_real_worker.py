"""A tiny random model in a real worker process: everything between a request and its events."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import checkpoints
from headrace.config import EngineSettings, Settings
from headrace.engine.chat import EngineChat
from headrace.engine.client import EngineClient
from headrace.errors import (
    CheckpointError,
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidParameter,
    UnsupportedModel,
    WorkerDied,
)
from headrace.tokens import train_bpe
from headrace.types import (
    ChatRequest,
    Collected,
    CompletionRequest,
    FinishReason,
    Message,
    ModelCard,
    Role,
    SamplingParams,
    TextPart,
    collect,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = Settings(engine=EngineSettings(threads=1, kv_cache_bytes=8 << 20))
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, logprobs=2)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = checkpoints.make(tmp_path_factory.mktemp("tiny"), "qwen3", vocab_size=300)
    tokenizer = train_bpe(
        ["the quick brown fox jumps over the lazy dog "] * 3,
        vocab_size=290,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )
    tokenizer.save(path, chat_template=TEMPLATE)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(directory: Path) -> AsyncIterator[EngineClient]:
    async with EngineClient(directory, SETTINGS, wait_s=60.0) as made:
        yield made


@pytest.fixture
def backend(client: EngineClient, directory: Path) -> EngineChat:
    info = client.info
    card = ModelCard(name="tiny", context_tokens=info.context_tokens, created_s=0)
    return EngineChat.load(client, directory, card)


async def complete(
    backend: EngineChat, sampling: SamplingParams, *, echo: bool = False
) -> Collected:
    request = CompletionRequest(model="tiny", prompt="the fox", sampling=sampling, echo=echo)
    return await collect(backend.complete(request))


async def test_chat_streams_and_repeats(backend: EngineChat) -> None:
    messages = (Message(role=Role.USER, parts=(TextPart(text="the fox"),)),)
    request = ChatRequest(model="tiny", messages=messages, sampling=GREEDY)
    one, two = await asyncio.gather(
        collect(backend.stream(request)), collect(backend.stream(request))
    )
    # Ids, not log-probabilities: another batch rounds the last bits differently.
    assert one.choices[0].token_ids == two.choices[0].token_ids
    assert one.choices[0].text == two.choices[0].text
    assert one.choices[0].finish is FinishReason.LENGTH
    assert len(one.choices[0].token_ids) == len(one.choices[0].logprobs) == 12
    assert one.usage.prompt_tokens == len(backend.render(request).ids)
    assert one.usage.completion_tokens == 12


async def test_n_choices_have_their_own_draws_and_a_reported_seed(backend: EngineChat) -> None:
    sampling = SamplingParams(n=3, max_tokens=8, ignore_eos=True)
    first = await complete(backend, sampling)
    again = SamplingParams(n=3, max_tokens=8, ignore_eos=True, seed=first.started.seed)
    assert (await complete(backend, again)).choices == first.choices
    assert len({choice.token_ids for choice in first.choices}) == 3


async def test_a_stop_string_across_tokens_ends_the_choice(backend: EngineChat) -> None:
    plain = (await complete(backend, GREEDY)).choices[0]
    texts = [backend.detokenize(plain.token_ids[: at + 1]) for at in range(12)]
    whole = texts[-1]
    at = next(i for i in range(2, len(whole) - 1) if "\ufffd" not in whole[i : i + 2])
    stop = whole[at : at + 2]
    sampling = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, stop=(stop,))
    choice = (await complete(backend, sampling)).choices[0]
    assert choice.text == whole[: whole.index(stop)]
    assert (choice.finish, choice.stop) == (FinishReason.STOP, stop)
    assert plain.token_ids[: len(choice.token_ids)] == choice.token_ids


async def test_echo_scores_the_prompt(backend: EngineChat, client: EngineClient) -> None:
    sampling = SamplingParams(temperature=0.0, max_tokens=2, logprobs=1, ignore_eos=True)
    got = await complete(backend, sampling, echo=True)
    assert got.choices[0].text.startswith("the fox")
    ids = got.started.prompt_ids
    scores = got.started.prompt_logprobs
    assert scores is not None
    scored = await client.score(ids)
    assert [0.0 if one is None else one.logprob for one in scores] == pytest.approx(scored)


async def test_refusals_name_what_is_wrong(backend: EngineChat) -> None:
    with pytest.raises(ContextLengthExceeded, match="context 256"):
        await complete(backend, SamplingParams(max_tokens=10_000))
    with pytest.raises(InvalidParameter, match="names token 300"):
        await complete(backend, SamplingParams(logit_bias=((300, 1.0),)))
    request = CompletionRequest(model="tiny", prompt=(1, 400))
    with pytest.raises(InvalidParameter) as caught:
        await collect(backend.complete(request))
    assert caught.value.param == "prompt[1]"


async def test_a_deadline_that_passed_is_an_error(backend: EngineChat) -> None:
    request = CompletionRequest(model="tiny", prompt="the", deadline_s=0.0, sampling=GREEDY)
    with pytest.raises(DeadlineExceeded):
        await collect(backend.complete(request))


async def test_cancel_frees_the_sequence_within_a_step(client: EngineClient) -> None:
    sampling = SamplingParams(max_tokens=200, ignore_eos=True)
    events = client.generate((5, 6, 7), sampling)
    await anext(events)
    before = await client.stats()
    assert before["running"] == 1
    await events.aclose()
    after = await client.stats()
    assert (after["running"], after["blocks_used"]) == (0, 0)
    assert after["counters.finished.abort"] == before.get("counters.finished.abort", 0) + 1


async def test_kill_9_ends_requests_and_the_service_is_back(
    client: EngineClient, backend: EngineChat
) -> None:
    before = await complete(backend, GREEDY)
    events = client.generate((5, 6, 7), SamplingParams(max_tokens=200, ignore_eos=True))
    await anext(events)
    os.kill(client.info.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        [event async for event in events]
    after = await complete(backend, GREEDY)
    assert after.choices[0].token_ids == before.choices[0].token_ids
    assert client.restarts == 1


async def test_sigterm_drains_the_worker(client: EngineClient) -> None:
    events = client.generate((5, 6, 7), SamplingParams(max_tokens=100, ignore_eos=True))
    said = [await anext(events)]
    os.kill(client.info.pid, signal.SIGTERM)
    said += [event async for event in events]
    assert sum(len(event.tokens) for event in said) == 100
    assert said[-1].finish is FinishReason.LENGTH


async def test_start_up_failures_are_typed(directory: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(directory, torn)
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        await EngineClient(torn, SETTINGS).start()
    config = torn / "config.json"
    config.write_text(config.read_text().replace('"qwen3"', '"qwen9"'))
    with pytest.raises(UnsupportedModel, match="qwen9"):
        await EngineClient(torn, SETTINGS).start()
