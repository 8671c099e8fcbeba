"""What the gateway asks of a model's text side, for /tokenize, /detokenize and /render."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from headrace.types import ChatRequest

if TYPE_CHECKING:  # a gateway before providers alone loads no tokenizer
    from headrace.tokens import Rendered


class TextCodec(Protocol):
    """Text ⇄ ids of one model, and the one renderer.

    Raises `UserError`s for what a caller can mend: an id out of range, a template that refuses.
    """

    def tokenize(self, text: str, *, add_special: bool) -> tuple[int, ...]: ...

    def detokenize(self, ids: Sequence[int]) -> str: ...

    def token_texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Each token as a vocabulary spells it."""
        ...

    def render(self, request: ChatRequest) -> "Rendered":
        """The prompt that a chat request becomes."""
        ...
