"""Traffic is a pure function of its description, and says what is wrong with a file."""

from pathlib import Path

import pytest

from headrace.bench.datasets import BenchRequest, Span, jsonl_requests, random_requests
from headrace.errors import DataError, InvalidParameter
from headrace.types import ChatRequest, CompletionRequest, Role, SamplingParams

SAMPLING = SamplingParams(temperature=0.0)


def made(*, prefix_tokens: int = 0, prefixes: int = 1, seed: int = 0) -> list[BenchRequest]:
    return random_requests(
        model="m",
        count=50,
        input_tokens=Span(low=20, high=40),
        output_tokens=Span(low=3, high=9),
        ids=Span(low=100, high=120),
        sampling=SAMPLING,
        prefix_tokens=prefix_tokens,
        prefixes=prefixes,
        seed=seed,
    )


def prompts(requests: list[BenchRequest]) -> list[tuple[int, ...]]:
    assert all(isinstance(request, CompletionRequest) for request in requests)
    return [request.prompt for request in requests if isinstance(request, CompletionRequest)]  # pyright: ignore[reportReturnType]


def test_random() -> None:
    requests = made()
    lengths = {len(prompt) for prompt in prompts(requests)}
    assert (min(lengths), max(lengths)) == (20, 40)
    assert {token for prompt in prompts(requests) for token in prompt} == set(range(100, 121))
    for request in requests:
        sampling = request.sampling
        assert sampling.max_tokens == sampling.min_tokens
        assert sampling.max_tokens in range(3, 10)
        assert sampling.ignore_eos
    assert made() == requests
    assert made(seed=1) != requests


def test_shared_prefixes() -> None:
    heads = [prompt[:16] for prompt in prompts(made(prefix_tokens=16, prefixes=4))]
    assert len(set(heads)) == 4
    assert heads[0] == heads[4]
    assert len({prompt[16:] for prompt in prompts(made(prefix_tokens=16))}) == 50


def test_a_prefix_as_long_as_the_prompt_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="lower it to 19"):
        made(prefix_tokens=20)


def test_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "traffic.jsonl"
    file.write_text(
        '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}\n'
        '{"prompt": "text", "max_tokens": 3}\n'
        '{"prompt": [1, 2]}\n'
    )
    chat, text, ids = jsonl_requests(file, model="m", count=3, output_tokens=7, sampling=SAMPLING)
    assert isinstance(chat, ChatRequest)
    assert [message.role for message in chat.messages] == [Role.SYSTEM, Role.USER]
    assert chat.sampling.max_tokens == 7
    assert isinstance(text, CompletionRequest)
    assert (text.prompt, text.sampling.max_tokens) == ("text", 3)
    assert isinstance(ids, CompletionRequest)
    assert ids.prompt == (1, 2)
    with pytest.raises(DataError, match="has 3 requests, 4 were"):
        jsonl_requests(file, model="m", count=4, output_tokens=7, sampling=SAMPLING)


BAD_LINES = (
    "{",
    "[]",
    "{}",
    '{"prompt": 7}',
    '{"messages": [{"role": "x", "content": ""}]}',
    '{"messages": [{"role": "user", "content": 3}]}',
    '{"prompt": "a", "max_tokens": "b"}',
)


@pytest.mark.parametrize("line", BAD_LINES)
def test_jsonl_refusals_name_the_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"prompt": "a"}\n' + line + "\n")
    with pytest.raises(DataError, match="line 2"):
        jsonl_requests(file, model="m", count=2, output_tokens=7, sampling=SAMPLING)


def test_jsonl_absent(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        jsonl_requests(tmp_path / "none", model="m", count=1, output_tokens=1, sampling=SAMPLING)
