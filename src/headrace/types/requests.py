"""What may be asked of a model: a conversation, or a raw prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.types.content import Message
from headrace.types.params import (
    ReasoningParams,
    ResponseFormat,
    SamplingParams,
    ToolChoice,
    ToolSpec,
)
from headrace.types.usage import Caller, Priority, Trail


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice = ToolChoice.AUTO
    tool_name: str | None = None
    """With `ToolChoice.REQUIRED`: the one tool to call."""
    parallel_tool_calls: bool = True
    """False = at most one call in an answer."""
    sampling: SamplingParams = SamplingParams()
    format: ResponseFormat = ResponseFormat()
    reasoning: ReasoningParams = ReasoningParams()
    prompt_cache: str = ""
    """5m | 1h: ask a provider that caches prompts only on demand to keep this one so long. A local
    engine caches every prefix anyway."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Extra variables for the chat template (`enable_thinking`)."""
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    deadline_s: float | None = None
    """Seconds from now until the request ends with `deadline`; None = no limit."""
    priority: Priority = Priority.INTERACTIVE
    streamed: bool = field(default=True, compare=False)
    """False = nobody looks at parts: a backend may come with everything at its end."""
    caller: Caller = Caller()
    trace: str = ""
    """Request id, in logs, metrics exemplars and the answer's `id`."""
    trail: Trail = field(default_factory=Trail, compare=False, repr=False)
    """Where everybody on its way says what he decided; part of no comparison and no cache key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionRequest:
    """A raw prompt, text or ids, with no template around it."""

    model: str
    prompt: str | tuple[int, ...]
    echo: bool = False
    add_special_tokens: bool = True
    """Text prompts only: begin with the tokenizer's BOS where it has one."""
    sampling: SamplingParams = SamplingParams()
    deadline_s: float | None = None
    priority: Priority = Priority.INTERACTIVE
    caller: Caller = Caller()
    trace: str = ""
    trail: Trail = field(default_factory=Trail, compare=False, repr=False)
    """As in `ChatRequest`."""
