"""Texts and ids of an embedding request → the ids that an encoder reads, counted and bounded.

Invariant: what comes out is at most `max_tokens` long, was cut only where the request allows it and
is then named; no text becomes a mark of the model. A text is the prompt it asks for, itself, and
the tokenizer's marks around both, as sentence-transformers puts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.errors import ContextLengthExceeded, InvalidParameter, UnsupportedParameter
from headrace.model.sentences import SentenceConfig
from headrace.tokens import Tokenizer
from headrace.types import EmbedRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A request's inputs as ids."""

    inputs: tuple[tuple[int, ...], ...]
    truncated: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return sum(len(ids) for ids in self.inputs)


class InputEncoder:
    """A tokenizer with a checkpoint's longest input and prompts. Threads may share it."""

    def __init__(self, tokenizer: Tokenizer, config: SentenceConfig, *, vocab_size: int) -> None:
        """Join them; `vocab_size` is the model's, which ids must be below."""
        self._tokenizer = tokenizer
        self._config = config
        self._vocab_size = vocab_size
        self._marks = tokenizer.marks
        self.max_tokens = config.max_tokens
        self.prompts = tuple(sorted(config.prompts))

    def encode(self, request: EmbedRequest) -> Encoded:
        """All inputs of a request.

        Raises:
            InvalidParameter: An input that is empty, or an id outside the vocabulary.
            UnsupportedParameter: A prompt that the model does not have.
            ContextLengthExceeded: An input that is too long and may not be cut.
        """
        prompt = self._prompt(request.prompt)
        texts = [prompt + text for text in request.inputs if isinstance(text, str)]
        if self._config.lower:
            texts = [text.lower() for text in texts]
        encoded = iter(self._tokenizer.encode_many(texts))
        inputs: list[tuple[int, ...]] = []
        truncated: list[int] = []
        for at, item in enumerate(request.inputs):
            if isinstance(item, str):
                ids = (*self._marks.before, *next(encoded), *self._marks.after)
                after = self._marks.after
            else:
                self._check_ids(at, item)
                ids, after = item, ()
            if len(ids) > self.max_tokens:
                if not request.truncate:
                    raise self._too_long(at, len(ids))
                truncated.append(at)
                ids = (*ids[: self.max_tokens - len(after)], *after)
            inputs.append(ids)
        return Encoded(inputs=tuple(inputs), truncated=tuple(truncated))

    def _prompt(self, name: str) -> str:
        name = name or self._config.default_prompt
        if not name:
            return ""
        if name not in self._config.prompts:
            known = ", ".join(self.prompts) or "none; leave it out"
            raise UnsupportedParameter(
                f"`input_type` {name!r} is not a prompt of this model; it has: {known}",
                param="input_type",
            )
        return self._config.prompts[name]

    def _check_ids(self, at: int, ids: Sequence[int]) -> None:
        if not ids:
            raise InvalidParameter(f"`input[{at}]` has no token", param=f"input[{at}]")
        wrong = next((i for i in ids if not 0 <= i < self._vocab_size), None)
        if wrong is not None:
            raise InvalidParameter(
                f"`input[{at}]` has token id {wrong}; ids are 0 to {self._vocab_size - 1}",
                param=f"input[{at}]",
            )

    def _too_long(self, at: int, size: int) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"`input[{at}]` has {size} tokens and the model reads {self.max_tokens}; shorten it by "
            f"{size - self.max_tokens}, split it, or ask for `truncate`",
            param=f"input[{at}]",
        )
