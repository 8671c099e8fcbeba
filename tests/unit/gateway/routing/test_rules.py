"""Rules: which one decides, what it decides, and what is said of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.config import CacheSettings, Settings, load
from headrace.errors import ConfigError, PermissionDenied
from headrace.gateway.caching.shelf import Shelf
from headrace.gateway.fold import fronted
from headrace.gateway.routing.build import compile_routes
from headrace.gateway.services import Served
from headrace.providers.residency import Residency
from headrace.testing import ScriptedBackend
from headrace.types import (
    Caller,
    ChatRequest,
    FormatKind,
    ImagePart,
    Message,
    ModelCard,
    ResponseFormat,
    Role,
    SamplingParams,
    Target,
    ToolSpec,
    Trail,
)
from routed import answer, asked, notes, says

HEAD = """
[data_classes.secret]
managed = false
[providers.p]
kind = "compatible"
url = "http://127.0.0.1:9"
[routes.small]
provider = "p"
[routes.large]
provider = "p"
[routes.r]
provider = "p"
"""
RULES = """
[[routes.r.rules]]
name = "red team"
team = ["red"]
use = "large"
[[routes.r.rules]]
name = "secrets"
data_class = ["secret"]
deny = "secrets go to the local model"
[[routes.r.rules]]
name = "hello"
text = '(?i)^\\s*hello\\W*$'
answer = "Hello! What can I do for you?"
[[routes.r.rules]]
name = "long"
min_prompt_tokens = 50
use = "large"
[[routes.r.rules]]
name = "tools and pictures"
tools = true
images = true
use = "large"
[[routes.r.rules]]
name = "poor"
budget_below_usd = "0.50"
use = "small"
[[routes.r.rules]]
name = "German"
language = ["de"]
feature = ["search", "help"]
use = "small"
"""


def settings(tmp_path: Path, body: str) -> Settings:
    file = tmp_path / "headrace.toml"
    file.write_text(HEAD + body)
    return load(file=file, environ={})


def served(tmp_path: Path, body: str, *, left: int | None = None) -> dict[str, Served]:
    made = settings(tmp_path, body)
    backends: dict[str, ScriptedBackend] = {name: says(name) for name in ("m", *made.routes)}
    models = {
        name: Served(
            card=ModelCard(name=name, context_tokens=4096, created_s=1),
            chat=backend,
            candidates=(Target(provider="" if name == "m" else "p", model=name),),
        )
        for name, backend in backends.items()
    }

    async def budget_left(_: Caller) -> int | None:
        return left

    plan = compile_routes(
        made,
        {name: item.candidates for name, item in models.items()},
        local="m",
        render_tokens=lambda request: 7,
        budget_left=budget_left,
    )
    return fronted(
        models,
        made,
        plan,
        shelf=Shelf(None, CacheSettings()),
        residency=Residency.of(made),
        release="",
    )


GERMAN = "Bitte fasse mir die wichtigsten Punkte dieses langen Vertrages zusammen, danke."


@pytest.mark.parametrize(
    ("request_", "said", "rule"),
    [
        (asked("what is water?"), "r", ""),
        (asked("what is water?", caller=Caller(team="red")), "large", "red team"),
        (asked("Hello!"), "Hello! What can I do for you?", "hello"),
        (asked("word " * 60), "large", "long"),
        (asked(GERMAN, caller=Caller(feature="help")), "small", "German"),
        (asked(GERMAN), "r", ""),
        (asked("Please summarise this contract.", caller=Caller(feature="help")), "r", ""),
        # The first that matches decides.
        (asked("Hello!", caller=Caller(team="red")), "large", "red team"),
    ],
)
async def test_the_first_rule_that_matches_decides(
    tmp_path: Path, request_: ChatRequest, said: str, rule: str
) -> None:
    request = replace(request_, trail=Trail())
    made = served(tmp_path, RULES)
    assert await answer(made["r"].chat.stream(request)) == said
    [note] = [note for note in request.trail.notes if note.hop == "router"]
    assert note.facts["rule"] == rule
    assert f"configuration {note.facts['config']}" in note.text


async def test_tools_and_pictures_together(tmp_path: Path) -> None:
    made = served(tmp_path, RULES)
    picture = Message(role=Role.USER, parts=(ImagePart(media_type="image/png", data=b"x"),))
    tool = ToolSpec(name="f")
    seen = replace(asked("look"), messages=(picture,), trail=Trail())
    assert await answer(made["r"].chat.stream(seen)) == "r"
    assert await answer(made["r"].chat.stream(replace(seen, tools=(tool,)))) == "large"


async def test_a_rule_may_refuse_and_its_reason_is_told(tmp_path: Path) -> None:
    made = served(tmp_path, RULES)
    request = asked("a secret", caller=Caller(data_classes=frozenset({"secret"})))
    with pytest.raises(PermissionDenied, match=r"secrets go to the local model \(rule 'secrets'"):
        await answer(made["r"].chat.stream(request))
    assert "is refused" in notes(request, "router")[0]


@pytest.mark.parametrize(
    ("left", "said"), [(None, "r"), (499_999_999, "small"), (500_000_000, "r")]
)
async def test_what_is_left_of_a_budget(tmp_path: Path, left: int | None, said: str) -> None:
    made = served(tmp_path, RULES, left=left)
    request = asked("what is water?")
    assert await answer(made["r"].chat.stream(request)) == said
    if said == "r":
        why = str(request.trail.notes[0].facts["passed_over"])
        assert ("poor: no budget of the caller is known" in why) is (left is None)
        assert "hello: '(?i)^\\\\s*hello\\\\W*$' is not in the text" in why


async def test_a_fixed_answer_costs_nothing_and_fits_or_is_not_given(tmp_path: Path) -> None:
    made = served(tmp_path, RULES)
    request = asked("hello", sampling=SamplingParams(n=2))
    events = [event async for event in made["r"].chat.stream(request)]
    assert len(events) == 5  # begun, two texts, two ends
    assert not request.trail.legs
    strict = replace(
        asked("hello"), format=ResponseFormat(kind=FormatKind.JSON_OBJECT), trail=Trail()
    )
    assert await answer(made["r"].chat.stream(strict)) == "r"
    assert "no fixed answer fits: it asks for json_object" in str(
        strict.trail.notes[0].facts["passed_over"]
    )


async def test_what_rules_may_reach_is_held_for(tmp_path: Path) -> None:
    made = served(tmp_path, RULES)
    assert {target.model for target in made["r"].candidates} == {"r", "small", "large"}
    assert made["small"].candidates == (Target(provider="p", model="small"),)


async def test_the_local_model_counts_where_it_may_be_asked(tmp_path: Path) -> None:
    body = '[[routes.r.rules]]\nmin_prompt_tokens = 7\nmax_prompt_tokens = 7\nuse = "m"'
    made = served(tmp_path, body)
    assert await answer(made["r"].chat.stream(asked("x" * 3000))) == "m"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("[[routes.r.rules]]\nteam = ['x']", "exactly one of use, answer and deny; it has none"),
        ("[[routes.r.rules]]\nuse = 'large'\nanswer = 'x'", "it has use and answer"),
        ("[[routes.r.rules]]\nuse = 'nobody'", "rules[0].use = 'nobody' is not served"),
        ("[[routes.r.rules]]\ntext = '('\nuse = 'large'", "is no regular expression"),
        ("[[routes.r.rules]]\nlanguage = ['xx']\nuse = 'large'", "language xx is not known"),
        ("[[routes.r.rules]]\nlabel = ['x']\nuse = 'large'", "`label` needs the route's"),
        ("[[routes.r.rules]]\nbudget_below_usd = 'few'\nuse = 'large'", "not an amount"),
        ("[[routes.r.rules]]\nbudget_below_usd = '-1'\nuse = 'large'", "not an amount"),
        (
            "[[routes.r.rules]]\nmin_prompt_tokens = 9\nmax_prompt_tokens = 8\nuse = 'large'",
            "let nothing through",
        ),
        (
            "[[routes.r.rules]]\nname='a'\nuse='large'\n[[routes.r.rules]]\nname='a'\nuse='small'",
            "'a' is another rule's",
        ),
        ("[[routes.r.rules]]\nteem = ['x']\nuse = 'large'", "did you mean team?"),
        ("[[routes.r.rules]]\ntools = 3\nuse = 'large'", "rules[0].tools = 3 is not a bool"),
        ("[routes.x]\nprovider = 'p'\nrules = 3", "is not a list of tables"),
        ("[routes.x]\nprovider = 'p'\nclassifier = '/nowhere'", "has no classifier"),
        ("[routes.x]\nprovider = 'p'\ncache_any = true", "set cache_ttl_s"),
        ("[routes.x]\nprovider = 'p'\ncache_ttl_s = -1", "is negative"),
        (
            "[routes.x]\nprovider = 'p'\ncache_ttl_s = 1\ncache_hit_price = 2.0",
            "is not in 0 to 1",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        served(tmp_path, body)
    assert said in refused.value.message


def version(tmp_path: Path, body: str) -> str:
    made = settings(tmp_path, body)
    names: dict[str, Any] = dict.fromkeys(made.routes, ())
    return compile_routes(made, names).version


def test_a_version_is_of_the_content_alone(tmp_path: Path) -> None:
    before = version(tmp_path, RULES)
    assert before == version(tmp_path, RULES + "\n# a remark\n")
    assert before != version(tmp_path, RULES.replace("0.50", "0.51"))
    assert len(before) == 12


async def test_a_cached_route_with_rules_keeps_each_way_apart(tmp_path: Path) -> None:
    cached = served(tmp_path, "cache_ttl_s = 60\n" + RULES)
    cold = SamplingParams(temperature=0)
    red = Caller(org="o", team="red")
    one, two = (asked("x", caller=red, sampling=cold) for _ in range(2))
    assert await answer(cached["r"].chat.stream(one)) == "large"
    assert await answer(cached["r"].chat.stream(two)) == "large"
    assert (one.trail.cache, two.trail.cache) == ("miss", "hit")
    blue = asked("x", caller=Caller(org="o", team="blue"), sampling=cold)
    assert await answer(cached["r"].chat.stream(blue)) == "r"
    assert blue.trail.cache == "miss"
