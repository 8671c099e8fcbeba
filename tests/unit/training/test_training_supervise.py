"""The mask covers exactly what an assistant says, and the token that ends its turn."""

import pytest

from headrace.data.chat import Conversation, call, result, said, turns
from headrace.errors import DataError
from headrace.tokens import ChatTemplate, Tokenizer, train_bpe
from headrace.training.recipes.sprout import TEMPLATE
from headrace.training.recipes.sprout_data import MARKS
from headrace.training.supervise import Supervisor
from headrace.types import Role, ToolSpec

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = ["hello there, what is it?", "user assistant system"] * 3
    return train_bpe(texts, vocab_size=300, special_tokens=SPECIAL, marks=MARKS, eos="<|im_end|>")


@pytest.fixture(scope="module")
def supervisor(tokenizer: Tokenizer) -> Supervisor:
    return Supervisor.of(tokenizer, ChatTemplate(TEMPLATE.read_text()))


def _supervised(supervisor: Supervisor, conversation: Conversation) -> list[str]:
    row = supervisor.row(conversation)
    runs: list[list[int]] = []
    for place, (token, weight) in enumerate(zip(row.ids, row.weights, strict=True)):
        if weight:
            if not row.weights[place - 1]:
                runs.append([])
            runs[-1].append(int(token))
    return [supervisor.tokenizer.decode(run, skip_special=False) for run in runs]


def test_every_answer_and_its_end_and_nothing_else(supervisor: Supervisor) -> None:
    talk = Conversation(id="x", messages=turns("Hi", "Hello!", "And?", "No.", system="Be kind."))
    assert _supervised(supervisor, talk) == ["Hello!<|im_end|>", "No.<|im_end|>"]


def test_a_text_models_tokenizer_ends_texts_and_its_template_ends_turns() -> None:
    texts = ["hello there, what is it?", "user assistant system"] * 3
    tokenizer = train_bpe(
        texts, vocab_size=300, special_tokens=SPECIAL, marks=MARKS, eos="<|endoftext|>"
    )
    supervisor = Supervisor.of(tokenizer, ChatTemplate(TEMPLATE.read_text()))
    assert supervisor.end_id == tokenizer.special["<|im_end|>"] != tokenizer.eos_id
    talk = Conversation(id="x", messages=turns("Hi", "Hello!"))
    assert _supervised(supervisor, talk) == ["Hello!<|im_end|>"]


def test_a_tool_call_is_supervised_with_its_markup(supervisor: Supervisor) -> None:
    talk = Conversation(
        id="x",
        messages=(
            said(Role.USER, "Weather?"),
            call("w", '{"city": "Rome"}'),
            result("w", "rain"),
            said(Role.ASSISTANT, "Rain."),
        ),
        tools=(ToolSpec(name="w"),),
    )
    assert _supervised(supervisor, talk) == [
        '<tool_call>\n{"name": "w", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>',
        "Rain.<|im_end|>",
    ]


def test_control_tokens_in_an_answer_are_text(supervisor: Supervisor) -> None:
    talk = Conversation(id="x", messages=turns("a<|im_end|>b", "say <|im_end|> aloud"))
    row = supervisor.row(talk)
    assert list(row.ids).count(supervisor.end_id) == 2
    assert _supervised(supervisor, talk) == ["say <|im_end|> aloud<|im_end|>"]


def test_what_would_train_nothing_is_refused(supervisor: Supervisor, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="no token is supervised"):
        supervisor.row(Conversation(id="x", messages=(said(Role.USER, "Hi"),)))
    endless = ChatTemplate(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    with pytest.raises(DataError, match="does not end with the end-of-turn token"):
        Supervisor.of(tokenizer, endless).row(Conversation(id="x", messages=turns("Hi", "Ho")))
    with pytest.raises(DataError, match="no generation prompt"):
        Supervisor.of(tokenizer, ChatTemplate("{{ messages[0].content }}"))


def test_an_answer_that_begins_otherwise_than_served_is_refused(tokenizer: Tokenizer) -> None:
    other = ChatTemplate(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>' }}{% endif %}"
    )
    with pytest.raises(DataError, match="does not begin with the template's generation prompt"):
        Supervisor.of(tokenizer, other).row(Conversation(id="x", messages=turns("Hi", "Ho")))
