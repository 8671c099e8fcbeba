"""A reward model's directory -> a reward of answers: `headrace train reward` closes into GRPO, PPO.

The score is of the whole conversation, rendered by the reward model's own tokenizer and template:
the record's `messages` and the answer, its turn ended.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headrace.data.chat import said
from headrace.errors import CheckpointError, DataError
from headrace.model import reward
from headrace.tokens import ChatTemplate, Tokenizer, render
from headrace.types import Role
from headrace.wire.openai_messages import decode_messages


def scored_by(directory: Path) -> Callable[[str, Mapping[str, Any]], float]:
    """The score that the reward model in `directory` gives an answer.

    Raises:
        CheckpointError: It is no reward model, or lacks its tokenizer or template.
    """
    if not directory.is_dir():
        raise CheckpointError(
            f"{directory} is no directory; give what `headrace train reward` made"
        )
    model = reward.load(directory, dtype="float32")
    tokenizer, template = Tokenizer.load(directory), ChatTemplate.load(directory)
    context = model.decoder.context_tokens

    def score(answer: str, record: Mapping[str, Any]) -> float:
        messages = (*decode_messages(record.get("messages")), said(Role.ASSISTANT, answer))
        ids = render(tokenizer, template, messages, add_generation_prompt=False).ids
        if len(ids) > context:
            raise DataError(
                f"a conversation of {len(ids)} tokens is longer than the {context} that the "
                f"reward model {directory} was made for; lower rollouts.max_tokens, or leave out "
                "the prompt"
            )
        return float(model.scores([ids]))

    return score
