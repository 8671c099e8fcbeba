"""Descriptions of traffic become requests: random token ids, shared prefixes, or a JSONL file.

Invariant: a pure function of its arguments, so two servers get the same bytes. Random prompts are
token ids, so no tokenizer stands between the wanted length and the real one, and end by length
(`ignore_eos`), so each request costs what it says.
"""

import json
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeAlias, cast

import numpy as np

from headrace.errors import DataError, InvalidParameter
from headrace.types import ChatRequest, CompletionRequest, Message, Role, SamplingParams, TextPart

BenchRequest: TypeAlias = ChatRequest | CompletionRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str, *, name: str, at_least: int = 1) -> Self:
        """`128` or `100-1024`.

        Raises: InvalidParameter
        """
        low, _, high = text.partition("-")
        try:
            span = cls(low=int(low), high=int(high or low))
        except ValueError:
            raise InvalidParameter(
                f"`{name}` {text!r} is neither a number nor two as in 100-1024", param=name
            ) from None
        if not at_least <= span.low <= span.high:
            raise InvalidParameter(
                f"`{name}` {text!r} must rise and begin at {at_least} or above", param=name
            )
        return span

    def draw(self, random: np.random.Generator, count: int | None = None) -> Any:
        """One number, or an array of `count`."""
        return random.integers(self.low, self.high, size=count, endpoint=True)


def random_prompts(
    *, count: int, input_tokens: Span, ids: Span, prefix_tokens: int, prefixes: int, seed: int
) -> list[tuple[int, ...]]:
    """Prompts of random ids; the first `prefix_tokens` of each are one of `prefixes` beginnings."""
    if prefix_tokens >= input_tokens.low:
        raise InvalidParameter(
            f"`prefix_tokens` {prefix_tokens} leaves nothing of a prompt of {input_tokens.low}; "
            f"lower it to {input_tokens.low - 1}",
            param="prefix_tokens",
        )
    random = np.random.default_rng(seed)
    heads = [ids.draw(random, prefix_tokens).tolist() for _ in range(max(1, prefixes))]
    return [
        tuple(
            heads[at % len(heads)]
            + ids.draw(random, int(input_tokens.draw(random)) - prefix_tokens).tolist()
        )
        for at in range(count)
    ]


def random_requests(
    *,
    model: str,
    count: int,
    input_tokens: Span,
    output_tokens: Span,
    ids: Span,
    sampling: SamplingParams,
    prefix_tokens: int = 0,
    prefixes: int = 1,
    seed: int = 0,
) -> list[BenchRequest]:
    """Completions of `random_prompts`, each with its own number of tokens to make."""
    prompts = random_prompts(
        count=count,
        input_tokens=input_tokens,
        ids=ids,
        prefix_tokens=prefix_tokens,
        prefixes=prefixes,
        seed=seed,
    )
    # A stream of its own: changing the prompts' shape does not change the answers' lengths.
    lengths = output_tokens.draw(np.random.default_rng([seed, 1]), count)
    return [
        CompletionRequest(
            model=model,
            prompt=prompt,
            sampling=replace(
                sampling, max_tokens=int(length), min_tokens=int(length), ignore_eos=True
            ),
        )
        for prompt, length in zip(prompts, lengths, strict=True)
    ]


def jsonl_requests(
    path: Path, *, model: str, count: int, output_tokens: int, sampling: SamplingParams
) -> list[BenchRequest]:
    """The first `count` lines: {"messages": [...]} or {"prompt": text or ids}, and optionally
    "max_tokens" in place of `output_tokens`.

    Raises: DataError naming the line, or a file with too few.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            lines = [line for line in islice(stream, count) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if len(lines) < count:
        raise DataError(
            f"{path} has {len(lines)} requests, {count} were asked for; lower --requests"
        )
    requests: list[BenchRequest] = []
    for number, line in enumerate(lines, 1):
        try:
            found = cast("dict[str, Any]", json.loads(line))
            length = int(found.get("max_tokens", output_tokens))
            requests.append(_request(found, model, replace(sampling, max_tokens=length)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f'{path} line {number}: not {{"messages": [{{"role", "content"}}]}} or '
                f'{{"prompt": text or ids}} ({error})'
            ) from error
    return requests


def _request(found: dict[str, Any], model: str, sampling: SamplingParams) -> BenchRequest:
    if "messages" in found:
        messages = tuple(
            Message(role=Role(entry["role"]), parts=(TextPart(text=_text(entry["content"])),))
            for entry in found["messages"]
        )
        return ChatRequest(model=model, messages=messages, sampling=sampling)
    prompt = found["prompt"]
    if not isinstance(prompt, str):
        prompt = tuple(int(token) for token in prompt)
    return CompletionRequest(model=model, prompt=prompt, sampling=sampling)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("content is not a string")
    return value
