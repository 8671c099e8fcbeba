"""What one row of logits is sampled with, and what came of it.

Made anew for each token, so neither is frozen: that alone would cost a microsecond each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.errors import InvalidParameter
from headrace.types import SamplingParams, TokenLogprob


class History:
    """The distinct tokens of one choice and how often its completion has each; O(1) per token.

    Only penalties read it: `History.of` gives None where a request has none.
    """

    __slots__ = ("_counts", "_ids", "_slots")

    def __init__(self, *, prompt: Sequence[int] = ()) -> None:
        seen = np.unique(np.asarray(prompt, dtype=np.int64))
        self._ids: NDArray[np.int64] = np.zeros(max(64, 2 * len(seen)), dtype=np.int64)
        self._ids[: len(seen)] = seen
        self._counts: NDArray[np.float32] = np.zeros(len(self._ids), dtype=np.float32)
        self._slots: dict[int, int] = {int(token): slot for slot, token in enumerate(seen)}

    @staticmethod
    def read_by(sampling: SamplingParams) -> bool:
        """Whether these parameters look at what was there before."""
        return (
            sampling.repetition_penalty != 1.0
            or sampling.frequency_penalty != 0.0
            or sampling.presence_penalty != 0.0
        )

    @classmethod
    def of(cls, sampling: SamplingParams, prompt: Sequence[int]) -> "History | None":
        """What these parameters need; the prompt counts for the repetition penalty alone."""
        if sampling.repetition_penalty != 1.0:
            return cls(prompt=prompt)
        if sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0:
            return cls()
        return None

    def push(self, token: int) -> None:
        """Book one token of the completion."""
        slot = self._slots.get(token)
        if slot is None:
            slot = self._slots[token] = len(self._slots)
            if slot == len(self._ids):
                self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
                self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            self._ids[slot] = token
        self._counts[slot] += 1

    def slot(self, token: int) -> int | None:
        """Where in `ids` a token is."""
        return self._slots.get(token)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Distinct tokens, in order of first sight; a view."""
        return self._ids[: len(self._slots)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """Occurrences in the completion, beside `ids`; 0 = in the prompt only. A view."""
        return self._counts[: len(self._slots)]


@dataclass(kw_only=True, slots=True)
class SampleRow:
    """What one row of logits is sampled with."""

    sampling: SamplingParams
    seed: int
    choice: int
    position: int
    """Index of the token within the completion = tokens it has so far."""
    history: History | None = None
    """Needed where `History.of` gives one; up to date with the completion."""
    end_ids: Sequence[int] = ()
    """Tokens that would end the choice (end of sequence, stop ids): forbidden while
    `position` < min_tokens."""


@dataclass(kw_only=True, slots=True)
class Sampled:
    token: int
    logprob: TokenLogprob | None = None
    """Where `sampling.logprobs` is not None."""


@dataclass(kw_only=True, slots=True)
class Unsampled:
    """A row without a token; only its own request fails."""

    reason: str


Outcome: TypeAlias = Sampled | Unsampled


def check_sampling(sampling: SamplingParams, *, vocab_size: int) -> None:
    """Refuse ids that this model does not have, before they can disturb a batch.

    Raises: InvalidParameter
    """
    for name, ids in (
        ("logit_bias", [token for token, _ in sampling.logit_bias]),
        ("stop_token_ids", sampling.stop_token_ids),
    ):
        for token in ids:
            if not 0 <= token < vocab_size:
                raise InvalidParameter(
                    f"`{name}` names token {token}, but this model's ids are 0 to {vocab_size - 1}",
                    param=name,
                )
