"""A conversation -> the row it trains: the renderer's ids, and weight on what the model must say.

The mask comes from the renderer's spans, never from markers searched in text. What counts is
everything of an assistant's turn after its generation prompt, up to and with the token that ends
the turn: exactly the part that a served model is asked to produce.
"""

from dataclasses import dataclass

import numpy as np

from headrace.data.chat import Conversation, said
from headrace.data.pack import TokenRow
from headrace.errors import DataError
from headrace.tokens import ChatTemplate, Rendered, SpanKind, Tokenizer, render
from headrace.types import Role


def turn_end(tokenizer: Tokenizer, template: ChatTemplate) -> int | None:
    """The token that ends an answer: the first special one that the template puts after it.

    Of a base model that is rarely the tokenizer's eos_token, which ends texts, not turns.
    """
    probe = (said(Role.USER, "probe"), said(Role.ASSISTANT, "probe"))
    rendered = render(tokenizer, template, probe, add_generation_prompt=False)
    said_at = [s for s in rendered.spans if s.message == 1 and s.kind is SpanKind.CONTENT]
    after = rendered.ids[said_at[-1].end :] if said_at else ()
    special = frozenset(tokenizer.special.values())
    return next((token for token in after if token in special), tokenizer.eos_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class Supervisor:
    """Makes rows for one tokenizer and template."""

    tokenizer: Tokenizer
    template: ChatTemplate
    begin: tuple[int, ...]
    """The generation prompt: what the template puts before an answer."""
    end_id: int
    """Ends an answer."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, template: ChatTemplate) -> "Supervisor":
        """Learn from the template itself how an answer begins.

        Raises:
            DataError: The template has no generation prompt, or no end of turn.
        """
        probe = (said(Role.USER, "probe"),)
        asked = render(tokenizer, template, probe, add_generation_prompt=False).ids
        asking = render(tokenizer, template, probe, add_generation_prompt=True).ids
        begin = asking[len(asked) :]
        if asking[: len(asked)] != asked or not begin:
            raise DataError(
                "the chat template has no generation prompt, so where an answer begins is unknown; "
                "give a template that honours add_generation_prompt"
            )
        end_id = turn_end(tokenizer, template)
        if end_id is None:
            raise DataError(
                "the chat template puts no special token after an answer and the tokenizer names "
                "no eos_token, so no turn could ever end; name one"
            )
        return cls(tokenizer=tokenizer, template=template, begin=begin, end_id=end_id)

    def row(self, conversation: Conversation, *, given: int = 0) -> TokenRow:
        """The conversation's ids, its assistant turns supervised.

        Args:
            conversation: What was said.
            given: Its first so many messages are not supervised, whoever said them.

        Raises:
            DataError: No assistant turn, or one that does not begin or end as the template's do.
        """
        rendered = render(
            self.tokenizer,
            self.template,
            conversation.messages,
            tools=conversation.tools,
            add_generation_prompt=False,
        )
        weights = np.zeros(len(rendered.ids), np.float32)
        for index, message in enumerate(conversation.messages):
            if message.role is Role.ASSISTANT and index >= given:
                start, end = self._answer(rendered, index, conversation.id)
                weights[start:end] = 1.0
        if not weights.any():
            raise DataError(
                f"conversation {conversation.id}: no token is supervised; it has no assistant turn"
            )
        return TokenRow(ids=np.asarray(rendered.ids, np.int32), weights=weights)

    def _answer(self, rendered: Rendered, message: int, name: str) -> tuple[int, int]:
        turn = [span for span in rendered.spans if span.message == message]
        if not turn:
            raise DataError(f"conversation {name}: the template drops message {message}; drop it")
        first, last = turn[0].start, turn[-1].end
        start = first + len(self.begin)
        if rendered.ids[first:start] != self.begin:
            raise DataError(
                f"conversation {name}: message {message} does not begin with the template's "
                "generation prompt, so training on it would not match serving"
            )
        if self.end_id not in rendered.ids[start:last]:
            raise DataError(
                f"conversation {name}: message {message} does not end with the end-of-turn token, "
                "so the model would never learn to stop"
            )
        return start, rendered.ids.index(self.end_id, start) + 1
