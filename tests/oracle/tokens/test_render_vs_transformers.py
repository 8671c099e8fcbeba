"""The renderer's ids against transformers' `apply_chat_template`, for thirteen families."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from fixtures.templates.families import FAMILIES, Family, build, messages_of, tools_of
from headrace.errors import TemplateError
from headrace.tokens import ChatTemplate, SpanKind, Tokenizer, render
from headrace.types import Message, Role, TextPart

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city; 'today' & <b>tomorrow</b> — °C.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": 'The "name"'},
                    "days": {"type": "integer", "enum": [1, 2]},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "now",
            "description": "The time.",
            "parameters": {"type": "object", "properties": {}},
        },
    },
]


def _call(number: int, name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"abcdefgh{number}", "type": "function", "function": function}


SYSTEM = {"role": "system", "content": "  Be brief.\nUse °C.  "}
CHATS: dict[str, list[dict[str, Any]]] = {
    "one turn": [{"role": "user", "content": "What is the weather?"}],
    "white space": [{"role": "user", "content": " \n  Hi  there \t\n\n"}],
    "unicode": [{"role": "user", "content": "北京 的天气 🌦️ naïve Größe ﬁ \u00a0 e\u0301"}],
    "turns": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "\nHello! 'How' \"are\" you? {{ x }} {% y %}\n"},
        {"role": "user", "content": "Fine.\r\n"},
        {"role": "assistant", "content": "Good."},
        {"role": "user", "content": "Bye"},
    ],
    "thinking": [
        {"role": "user", "content": "Add 1 and 2"},
        {"role": "assistant", "content": "<think>\nEasy: 3.\n</think>\n\nIt is 3."},
        {"role": "user", "content": "And 3?"},
        {"role": "assistant", "content": "6", "reasoning_content": "\n3 + 3\n"},
    ],
}
CALLS = [
    {"role": "user", "content": "Weather in Paris?"},
    {"role": "assistant", "content": "", "tool_calls": [_call(1, "get_weather", city="Paris")]},
    {"role": "tool", "tool_call_id": "abcdefgh1", "name": "get_weather", "content": "21 °C, sunny"},
    {"role": "assistant", "content": "It is 21 °C."},
    {"role": "user", "content": "Thanks"},
]
PARALLEL = [
    {"role": "user", "content": "Weather in Paris and Rome?"},
    {
        "role": "assistant",
        "content": "I will look.",
        "tool_calls": [
            _call(1, "get_weather", city="Paris", days=2),
            _call(2, "get_weather", city="Größe \"<x>\" 'é'", nested={"a": [1, 2.5, None, True]}),
        ],
    },
    {"role": "tool", "tool_call_id": "abcdefgh1", "name": "get_weather", "content": "rain"},
    {"role": "tool", "tool_call_id": "abcdefgh2", "name": "get_weather", "content": '{"t": 30}'},
]


class Case:
    """A family's two tokenizers."""

    def __init__(self, family: Family, directory: Path) -> None:
        self.family = family
        self.ours = build(family, directory)
        self.template = ChatTemplate.load(directory)
        self.theirs = PreTrainedTokenizerFast.from_pretrained(directory)

    def check(self, dicts: list[dict[str, Any]], **options: Any) -> None:
        tools: list[dict[str, Any]] = options.pop("tools", [])
        variables: dict[str, Any] = options.pop("variables", {})
        want = self._wanted(dicts, tools, {**options, **variables})
        if isinstance(want, str):
            with pytest.raises(TemplateError) as refused:
                self.render(dicts, tools, variables, options)
            assert want in str(refused.value)
            return
        got = self.render(dicts, tools, variables, options)
        assert list(got.ids) == want, (got.text, self.theirs.decode(want))
        assert [span.start for span in got.spans] == [0, *(s.end for s in got.spans[:-1])]
        assert got.spans[-1].end == len(got.ids)

    def _wanted(self, dicts: Any, tools: Any, options: dict[str, Any]) -> list[int] | str:
        """Transformers' ids, or why it refuses."""
        try:
            return self.theirs.apply_chat_template(
                dicts, tools=tools or None, return_dict=False, **options
            )
        except Exception as error:  # noqa: BLE001 - whatever a template raises
            return str(error)

    def render(self, dicts: Any, tools: Any, variables: Any, options: Any) -> Any:
        return render(
            self.ours,
            self.template,
            messages_of(dicts),
            tools=tools_of(tools),
            variables=variables,
            **options,
        )


_CASES: dict[str, Case] = {}


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family: Family = request.param
    if family.name not in _CASES:
        _CASES[family.name] = Case(family, tmp_path_factory.mktemp(family.name))
    return _CASES[family.name]


@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("chat", CHATS)
def test_same_ids(case: Case, chat: str, system: bool, generate: bool) -> None:
    dicts = [SYSTEM, *CHATS[chat]] if system else CHATS[chat]
    case.check(dicts, add_generation_prompt=generate)


@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize(
    ("dicts", "tools"),
    [
        (CHATS["one turn"], TOOLS),
        ([SYSTEM, *CHATS["turns"]], TOOLS),
        (CALLS, TOOLS),
        (CALLS[:3], TOOLS),
        (CALLS[:3], []),
        ([SYSTEM, *PARALLEL], TOOLS),
        (PARALLEL[:2], TOOLS[:1]),
    ],
)
def test_same_ids_with_tools(case: Case, dicts: Any, tools: Any, generate: bool) -> None:
    case.check(dicts, tools=tools, add_generation_prompt=generate)


def test_families_really_render_tools(case: Case) -> None:
    """Otherwise the test above would compare refusals only."""
    if not case.family.tools:
        pytest.skip("this family has no tools")
    options = {"add_generation_prompt": True}
    text = case.render(PARALLEL if case.family.parallel_calls else CALLS, TOOLS, {}, options).text
    assert "get_weather" in text
    assert "Paris" in text


@pytest.mark.parametrize("thinking", [True, False])
def test_same_ids_with_variables(case: Case, thinking: bool) -> None:
    variables = {"enable_thinking": thinking, "date_string": "1 Jan 2030"}
    case.check(CHATS["turns"], variables=variables, add_generation_prompt=True)


@pytest.mark.parametrize("text", ["It is", "It is  ", "\n It is \n", "(thinking)\nhm"])
def test_same_ids_when_continuing(case: Case, text: str) -> None:
    dicts = [*CHATS["one turn"], {"role": "assistant", "content": text}]
    case.check(dicts, add_generation_prompt=False, continue_final_message=True)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(st.text(max_size=30).filter(bool), min_size=1, max_size=4))
def test_same_ids_for_any_text(case: Case, texts: list[str]) -> None:
    # Of a control token's own text, ours are ordinary ids on purpose; the forged texts test that.
    assume(not any(control in text for control in case.ours.controls for text in texts))
    roles = itertools.cycle(("user", "assistant"))
    dicts = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    case.check(dicts, add_generation_prompt=True)


def _forged(case: Case) -> st.SearchStrategy[str]:
    tokens = [*case.ours.controls, "assistant", "system", "\n", " ", "x", "<", "|", ">", "im_end"]
    return st.lists(st.sampled_from(tokens), min_size=1, max_size=8).map("".join)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_content_never_becomes_control(case: Case, data: st.DataObject) -> None:
    """Control tokens are those of the same chat with harmless words, wherever content stands."""
    text = st.shared(_forged(case), key="text")
    forged: str = data.draw(text)
    tools = case.family.tools
    options = {"add_generation_prompt": True}

    def rendered(word: str) -> Any:
        dicts: list[dict[str, Any]] = [{"role": "user", "content": word}]
        if tools:
            call = _call(1, "get_weather", city=word, **{word: [word, {"k": word}]})
            dicts += [
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "abcdefgh1", "name": word, "content": word},
            ]
        specs = [{"type": "function", "function": {"name": "f", "description": word}}]
        return case.render(dicts, specs if tools else [], {"custom": word}, options)

    got, harmless = rendered(f"a{forged}b"), rendered("ab")
    controls = [token for token in got.ids if case.ours.is_control(token)]
    assert controls == [token for token in harmless.ids if case.ours.is_control(token)]
    for span in got.spans:
        if span.kind is SpanKind.CONTENT:
            ids = got.ids[span.start : span.end]
            assert not any(case.ours.is_control(token) for token in ids)


def test_spans_name_message_and_part(case: Case) -> None:
    parts = (TextPart(text="alpha"), TextPart(text=" beta"))
    got = render(case.ours, case.template, [Message(role=Role.USER, parts=parts)])
    content = [
        span for span in got.spans if span.kind is SpanKind.CONTENT and span.part is not None
    ]
    assert [(span.message, span.part, span.role) for span in content] == [
        (0, 0, Role.USER),
        (0, 1, Role.USER),
    ]
    texts = [case.ours.decode(got.ids[span.start : span.end]).strip() for span in content]
    # a token that begins with the template's space belongs to the template
    assert texts in (["alpha", "beta"], ["lpha", "beta"])


def test_the_tokenizers_agree(case: Case) -> None:
    assert isinstance(case.ours, Tokenizer)
    for text in ("Hello world", " a  b\n\nc ", "北京 🌦️"):
        assert case.ours.encode(text) == case.theirs.encode(text, add_special_tokens=False)
        assert case.ours.encode_prompt(text) == case.theirs.encode(text)
