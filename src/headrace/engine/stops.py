"""Token ids of one choice become the decision "a stop string is complete".

Invariant: it is the decision that a client sees, because it runs the same `Detokenizer` and
`StopMatcher` over the same ids as the process that writes the text. Built only for requests that
have stop strings, so nobody else pays for detokenization in the worker.
"""

from collections.abc import Sequence

from headrace.tokens import Detokenizer, StopMatcher, Tokenizer
from headrace.types import SamplingParams


class StopWatch:
    """Watches one choice; `push` its completion's ids as they are made.

    Text of the first `min_tokens` tokens is not searched, not even as the beginning of a match.
    """

    __slots__ = ("_detokenizer", "_matcher", "_unsearched")

    def __init__(self, tokenizer: Tokenizer, sampling: SamplingParams) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._matcher = StopMatcher(sampling.stop, include=False)
        self._unsearched = max(0, sampling.min_tokens - 1)

    def push(self, ids: Sequence[int]) -> str | None:
        """The stop string that these ids complete, if any; then nothing may follow."""
        for token in ids:
            text = self._detokenizer.push([token])
            if self._unsearched:
                # The token that reaches min_tokens may end the choice, those before it may not.
                self._unsearched -= 1
                continue
            matched = self._matcher.push(text).matched
            if matched is not None:
                return matched
        return None
