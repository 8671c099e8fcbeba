"""The bound of a provider's prompt: nothing that it will read counts as nothing."""

import pytest

from headrace.gateway.admission import most_tokens
from headrace.types import (
    AudioPart,
    ChatRequest,
    DocumentPart,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)


def bound(*parts: Part, tools: tuple[ToolSpec, ...] = ()) -> int:
    message = Message(role=Role.USER, parts=parts)
    return most_tokens(ChatRequest(model="m", messages=(message,), tools=tools))


@pytest.mark.parametrize(
    ("part", "least"),
    [
        (TextPart(text="é" * 50), 100),
        (ReasoningPart(text="x" * 70), 70),
        (ToolResultPart(call_id="c", text="x" * 90), 90),
        (ToolCallPart(id="c", name="f", arguments='{"a": 1}'), 9),
        (DocumentPart(id="d", text="x" * 80), 80),
        (DocumentPart(id="d", text="", media_type="application/pdf", data=b"%PDF" * 50), 200),
        (DocumentPart(id="d", text="", url="https://example.org/a.pdf"), 1000),
        (ImagePart(media_type="image/png", data=b"x"), 1000),
        (AudioPart(media_type="audio/wav", data=b"x"), 1000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_part_weighs_what_it_may_be(part: Part, least: int) -> None:
    assert bound(part) - bound() >= least
    assert bound(part, part) - bound(part) >= least


def test_tools_weigh_too() -> None:
    tool = ToolSpec(name="f", description="d" * 100, parameters={"type": "object"})
    assert bound(tools=(tool,)) - bound() >= 100
