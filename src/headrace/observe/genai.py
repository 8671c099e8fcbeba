"""The names that OpenTelemetry's GenAI conventions give what we say, in ONE versioned table.

None of them is stable, and they were renamed more than once; a version here is a state of the
conventions that collectors know:

| version | |
|---|---|
| 1.36 | semantic-conventions v1.36.0, which instrumentations emit unless told otherwise |
| latest | semantic-conventions-genai as of 2026-07 (024a4f9), `gen_ai_latest_experimental` |
| both | both at once, while dashboards move |

Sources: https://github.com/open-telemetry/semantic-conventions/tree/v1.36.0/docs/gen-ai and
https://github.com/open-telemetry/semantic-conventions-genai.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

T = TypeVar("T")
OLD, LATEST, BOTH = "1.36", "latest", "both"
VERSIONS = (OLD, LATEST, BOTH)


class Name(NamedTuple):
    """One attribute's names; empty = that version has none."""

    old: str
    latest: str


NAMES: Mapping[str, Name] = {
    "operation": Name("gen_ai.operation.name", "gen_ai.operation.name"),
    "provider": Name("gen_ai.system", "gen_ai.provider.name"),
    "request_model": Name("gen_ai.request.model", "gen_ai.request.model"),
    "response_model": Name("gen_ai.response.model", "gen_ai.response.model"),
    "response_id": Name("gen_ai.response.id", "gen_ai.response.id"),
    "finish_reasons": Name("gen_ai.response.finish_reasons", "gen_ai.response.finish_reasons"),
    "input_tokens": Name("gen_ai.usage.input_tokens", "gen_ai.usage.input_tokens"),
    "output_tokens": Name("gen_ai.usage.output_tokens", "gen_ai.usage.output_tokens"),
    "cache_read_tokens": Name("", "gen_ai.usage.cache_read.input_tokens"),
    "cache_write_tokens": Name("", "gen_ai.usage.cache_write.input_tokens"),
    "reasoning_tokens": Name("", "gen_ai.usage.reasoning.output_tokens"),
    "time_to_first_chunk": Name("", "gen_ai.response.time_to_first_chunk"),
    "stream": Name("", "gen_ai.request.stream"),
    "max_tokens": Name("gen_ai.request.max_tokens", "gen_ai.request.max_tokens"),
    "temperature": Name("gen_ai.request.temperature", "gen_ai.request.temperature"),
    "top_p": Name("gen_ai.request.top_p", "gen_ai.request.top_p"),
    "top_k": Name("gen_ai.request.top_k", "gen_ai.request.top_k"),
    "frequency_penalty": Name(
        "gen_ai.request.frequency_penalty", "gen_ai.request.frequency_penalty"
    ),
    "presence_penalty": Name("gen_ai.request.presence_penalty", "gen_ai.request.presence_penalty"),
    "seed": Name("gen_ai.request.seed", "gen_ai.request.seed"),
    "n": Name("gen_ai.request.choice.count", "gen_ai.request.choice.count"),
    "stop": Name("gen_ai.request.stop_sequences", "gen_ai.request.stop_sequences"),
}

PROVIDERS: Mapping[str, str] = {
    "": "headrace",
    "openai": "openai",
    "azure": "azure.ai.openai",
    "anthropic": "anthropic",
    "gemini": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "bedrock": "aws.bedrock",
    "compatible": "openai",
}
"""Our kinds of providers -> the conventions' names; a compatible server speaks OpenAI's protocol,
which is what the conventions ask to be named."""


def named(attributes: Mapping[str, T], version: str) -> Iterator[tuple[str, T]]:
    """The attributes by the names of a version, each once."""
    seen: set[str] = set()
    for key, value in attributes.items():
        name = NAMES[key]
        wanted = {OLD: (name.old,), LATEST: (name.latest,), BOTH: name}[version]
        for each in wanted:
            if each and each not in seen:
                seen.add(each)
                yield each, value
