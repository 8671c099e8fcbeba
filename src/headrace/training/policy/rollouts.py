"""Prompts -> completions with the log-probabilities they were sampled with.

The sampler is whoever serves these parameters; `headrace.app` hands over the engine in this
process. What is taken from it is checked here, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.errors import DataError, ServiceError
from headrace.types import FinishReason, SamplingParams, TokenLogprob


class SampledChoice(Protocol):
    """One completion, as an engine tells it."""

    @property
    def tokens(self) -> tuple[int, ...]: ...
    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]: ...
    @property
    def finish(self) -> FinishReason: ...
    @property
    def error(self) -> str | None: ...


class SampledPrompt(Protocol):
    """One prompt's completions."""

    @property
    def choices(self) -> Sequence[SampledChoice]: ...


class Sampler(Protocol):
    """Samples from the parameters as they are at the moment of the call."""

    def generate(
        self, prompts: Sequence[tuple[Sequence[int], SamplingParams]], /
    ) -> Sequence[SampledPrompt]:
        """`sampling.n` choices of each prompt, in the prompts' order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One roll-out."""

    prompt: int
    """Index of its prompt among those asked."""
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    """With the token that ended it, where one did."""
    logprobs: tuple[float, ...]
    """As the sampler saw them, at temperature 1."""
    truncated: bool
    """It was cut off at the longest length allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """How completions are drawn. Nothing narrows the distribution but temperature: with top-p or
    top-k the ratio of probabilities would be of two different distributions."""

    group: int
    """Completions of each prompt."""
    max_tokens: int
    temperature: float = 1.0
    greedy: bool = False
    """The likeliest token each time, whatever the temperature: to examine, not to train."""

    def __post_init__(self) -> None:
        if self.group < 1 or self.max_tokens < 1 or not self.temperature > 0:
            raise DataError(
                f"no roll-outs with group {self.group}, max_tokens {self.max_tokens}, temperature "
                f"{self.temperature}; give at least 1, at least 1 and more than 0"
            )


def roll_out(
    sampler: Sampler, prompts: Sequence[Sequence[int]], asking: Asking, *, seed: int
) -> list[Completion]:
    """Completions of every prompt, those of one prompt together.

    Args:
        sampler: Of the policy.
        prompts: Ids, the generation prompt included.
        asking: How many and how long.
        seed: Equal seeds, prompts and parameters give equal completions; prompt i draws from
            seed + i.

    Raises:
        ServiceError: The sampler could not answer: logits that are no numbers.
    """
    asked = [
        (
            prompt,
            SamplingParams(
                n=asking.group,
                max_tokens=asking.max_tokens,
                temperature=0.0 if asking.greedy else asking.temperature,
                seed=seed + place,
                logprobs=0,
            ),
        )
        for place, prompt in enumerate(prompts)
    ]
    found: list[Completion] = []
    for place, answered in enumerate(sampler.generate(asked)):
        for choice in answered.choices:
            if choice.finish not in (FinishReason.STOP, FinishReason.LENGTH):
                raise ServiceError(
                    f"a roll-out of prompt {place} ended with {choice.finish}: "
                    f"{choice.error or 'no reason given'}; the last checkpoint is good - resume it "
                    "with a lower learning rate"
                )
            found.append(
                Completion(
                    prompt=place,
                    prompt_ids=tuple(prompts[place]),
                    ids=choice.tokens,
                    logprobs=tuple(entry.logprob for entry in choice.logprobs),
                    truncated=choice.finish is FinishReason.LENGTH,
                )
            )
    return found
