"""An answer parses the same however it is cut; what is no call comes back as text."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.templates.families import HERE
from headrace.tokens import CallSyntax, OutputParser, ParsedCall, ParsedReasoning, ParsedText

SOURCES = {
    name: (HERE / f"{name}.jinja").read_text()
    for name in ("qwen3", "qwen2_5", "llama3_1", "mistral_v3", "chatml", "deepseek_r1")
}
_words = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "<|python_tag|>",
        '{"name": "f", "arguments": {"a": 1}}',
        '{"name": "g", "parameters": {"a": "}]</tool_call>"}}',
        '[{"name": "f", "arguments": {}, "id": "123456789"}]',
        '{"name"',
        '{"answer": 1}',
        "{",
        "}",
        "[",
        '"',
        "\\",
        "\n",
        " ",
        ";",
        "word",
        "<",
        "é",
    ]
)
_answers = st.lists(_words, max_size=10).map("".join)


def _parsed(
    name: str, pieces: list[str], *, tools: bool = True, prompt: str = ""
) -> list[tuple[str, ...]]:
    parser = OutputParser(SOURCES[name], tools=tools, prompt=prompt, new_id=lambda: "id")
    events = [event for piece in pieces for event in parser.push(piece)] + parser.flush()
    merged: list[tuple[str, ...]] = []
    for event in events:
        match event:
            case ParsedCall():
                merged.append(("call", event.name, event.arguments))
            case ParsedText() | ParsedReasoning():
                kind = "text" if isinstance(event, ParsedText) else "reasoning"
                if merged and merged[-1][0] == kind:
                    merged[-1] = (kind, merged[-1][1] + event.text)
                else:
                    merged.append((kind, event.text))
    return merged


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=100, deadline=None)
@given(answer=_answers, opened=st.booleans(), data=st.data())
def test_any_cut_parses_the_same(name: str, answer: str, opened: bool, data: st.DataObject) -> None:
    prompt = "<think>\n" if opened else ""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=6)))
    pieces = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    whole = _parsed(name, [answer], prompt=prompt)
    assert _parsed(name, pieces, prompt=prompt) == whole
    assert _parsed(name, list(answer), prompt=prompt) == whole


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=100, deadline=None)
@given(answer=_answers)
def test_without_tools_text_is_text(name: str, answer: str) -> None:
    """All of it, but for the marks around reasoning and the line breaks beside them."""
    parsed = _parsed(name, [answer], tools=False)
    assert all(kind != "call" for kind, *_ in parsed)
    if "<think>" not in answer:
        assert parsed == ([("text", answer)] if answer else [])


@settings(max_examples=100, deadline=None)
@given(answer=_answers)
def test_without_calls_text_is_kept(answer: str) -> None:
    parsed = _parsed("qwen2_5", [answer])
    if not any(kind == "call" for kind, *_ in parsed):
        assert "".join(text for _, text in parsed) == answer


@pytest.mark.parametrize(
    ("name", "answer", "want"),
    [
        (
            "qwen3",
            "<think>\nhm\n</think>\n\nOne moment.\n<tool_call>\n"
            '{"name": "f", "arguments": {"a": "</tool_call>"}}\n</tool_call>',
            [
                ("reasoning", "hm"),
                ("text", "One moment."),
                ("call", "f", '{"a": "</tool_call>"}'),
            ],
        ),
        (
            "qwen2_5",
            '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
            '<tool_call>\n{"name": "g", "arguments": {"x":1}}\n</tool_call>',
            [("call", "f", "{}"), ("call", "g", '{"x":1}')],
        ),
        ("qwen2_5", '<tool_call>{"name": "f"}', [("call", "f", "{}")]),
        ("qwen2_5", "a <tool_call> b\n", [("text", "a <tool_call> b\n")]),
        (
            "qwen2_5",
            '<tool_call>{"name": 1}</tool_call>',
            [("text", '<tool_call>{"name": 1}</tool_call>')],
        ),
        ("llama3_1", '{"name": "f", "parameters": {"a": 1.50}}', [("call", "f", '{"a": 1.50}')]),
        ("llama3_1", '<|python_tag|>{"name": "f", "parameters": {}}', [("call", "f", "{}")]),
        (
            "llama3_1",
            'Sure: {"name": "f", "parameters": {}}',
            [("text", 'Sure: {"name": "f", "parameters": {}}')],
        ),
        ("llama3_1", '{"answer": 42}', [("text", '{"answer": 42}')]),
        (
            "mistral_v3",
            '[TOOL_CALLS] [{"name": "f", "arguments": {"a": [1]}}, {"name": "g", "arguments": {}}]',
            [("call", "f", '{"a": [1]}'), ("call", "g", "{}")],
        ),
        ("chatml", '{"name": "f", "arguments": {}}', [("text", '{"name": "f", "arguments": {}}')]),
    ],
)
def test_what_families_write(name: str, answer: str, want: list[tuple[str, ...]]) -> None:
    assert _parsed(name, list(answer)) == want


def test_reasoning_that_the_prompt_opened() -> None:
    assert _parsed(
        "deepseek_r1", ["hm\n</thi", "nk>\n\nyes"], prompt="<｜Assistant｜><think>\n"
    ) == [
        ("reasoning", "hm"),
        ("text", "yes"),
    ]


@settings(max_examples=100, deadline=None)
@given(
    arguments=st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=5,
        ),
        max_size=3,
    )
)
def test_arguments_are_verbatim(arguments: dict[str, object]) -> None:
    text = json.dumps(arguments, indent=1)
    for name, answer in (
        ("qwen3", f'<tool_call>{{"name": "f", "arguments": {text}}}</tool_call>'),
        ("llama3_1", f'{{"name": "f", "parameters": {text}}}'),
        ("mistral_v3", f'[TOOL_CALLS][{{"name": "f", "arguments": {text}}}]'),
    ):
        assert _parsed(name, list(answer)) == [("call", "f", text)]


def test_syntax_and_marks() -> None:
    assert {name: CallSyntax.of(source) for name, source in SOURCES.items()} == {
        "qwen3": CallSyntax.HERMES,
        "qwen2_5": CallSyntax.HERMES,
        "llama3_1": CallSyntax.LLAMA3,
        "mistral_v3": CallSyntax.MISTRAL,
        "chatml": CallSyntax.NONE,
        "deepseek_r1": CallSyntax.NONE,
    }
    assert OutputParser(SOURCES["qwen3"], tools=True).marks == (
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
    )
    assert OutputParser(SOURCES["qwen2_5"], tools=False).marks == ()
