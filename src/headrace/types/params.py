"""How an answer is to be made: tools, sampling, format, reasoning."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolSpec:
    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON Schema of the arguments."""
    strict: bool = False


class ToolChoice(StrEnum):
    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    """At least one call: of any tool, or of `ChatRequest.tool_name`."""


class FormatKind(StrEnum):
    TEXT = "text"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseFormat:
    kind: FormatKind = FormatKind.TEXT
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReasoningParams:
    """How much a model may think before it answers; None = the model's own default."""

    enabled: bool | None = None
    effort: str | None = None
    """none | minimal | low | medium | high | xhigh | max; each model has some of them."""
    budget_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How logits become tokens. Order: logit_bias, repetition, frequency and presence penalty,
    min_tokens, temperature, top_k, top_p, min_p; then one draw.
    """

    temperature: float = 1.0
    """0 = greedy (argmax; the lowest id wins a tie)."""
    top_p: float = 1.0
    top_k: int = 0
    """0 = off."""
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    """Times the count in the completion (OpenAI); the prompt does not count."""
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    """Multiplicative over prompt and completion (CTRL, arXiv 1909.05858); 1 = off."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    """None = drawn by the server and reported. The draw at a position is a pure function of
    (seed, choice index, position), so it does not depend on the batch or on preemption."""
    n: int = 1
    max_tokens: int | None = None
    """None = up to the end of the context."""
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop: bool = False
    """Keep the matched stop string in the text (vLLM's include_stop_str_in_output)."""
    logprobs: int | None = None
    """None = none; k >= 0 = the sampled token's log-probability and the k best. They are of the
    model's own distribution, before any parameter above (vLLM's raw_logprobs)."""
    prompt_logprobs: int | None = None
    given: frozenset[str] = frozenset()
    """Names of the fields the caller set; the model's generation_config may fill the others."""
