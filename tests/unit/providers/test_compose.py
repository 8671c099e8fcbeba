"""Settings → routes: what they may be, what they may reach, what they may cost at most."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from headrace.config import Settings, load
from headrace.errors import ConfigError
from headrace.providers.assemble import Route, open_routes
from headrace.types import Target
from routed import answer, asked, says

PROVIDERS = """
[providers.one]
kind = "compatible"
url = "http://127.0.0.1:9"
[routes.a]
provider = "one"
model = "model-a"
[routes.b]
provider = "one"
model = "model-b"
"""


def settings(tmp_path: Path, body: str) -> Settings:
    file = tmp_path / "headrace.toml"
    file.write_text(PROVIDERS + body)
    return load(file=file, environ={})


async def routes(tmp_path: Path, body: str) -> dict[str, Route]:
    async with AsyncExitStack() as stack:
        return open_routes(settings(tmp_path, body), {"m": says("local")}, stack)


async def test_what_a_route_may_reach_and_be_billed_for(tmp_path: Path) -> None:
    made = await routes(
        tmp_path,
        """
        [routes.pool]
        targets = ["a", "b"]
        balance = "prefix"
        [routes.steps]
        cascade = ["m", "pool"]
        fallback = ["a"]
        [routes.hedged]
        provider = "one"
        hedge = "m"
        hedge_percentile = 0.95
        [routes.twice]
        provider = "one"
        hedge = "twice"
        hedge_after_s = 1
        """,
    )
    a, b = Target(provider="one", model="model-a"), Target(provider="one", model="model-b")
    m = Target(provider="", model="m")
    assert (made["a"].calls, made["a"].candidates) == (1, (a,))
    assert (made["pool"].calls, made["pool"].candidates) == (2, (a, b))
    assert (made["steps"].calls, made["steps"].candidates) == (4, (m, a, b))
    assert made["hedged"].candidates == (Target(provider="one", model="hedged"), m)
    assert made["twice"].calls == 2
    assert made["steps"].told == (
        "m, then pool where an answer fails empty, refusal, format; then a"
    )


async def test_a_pool_over_the_local_model_answers(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        made = open_routes(
            settings(tmp_path, '[routes.pool]\ntargets = ["m", "a"]\nbalance = "least-busy"'),
            {"m": says("local")},
            stack,
        )
        # `a` has nobody listening: whichever is first, the answer is the local one's.
        assert await answer(made["pool"].chat.stream(asked())) == "local"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("[routes.x]", "exactly one of provider, targets and cascade; it has none"),
        (
            '[routes.x]\nprovider = "one"\ntargets = ["a"]',
            "it has provider and targets",
        ),
        ('[routes.x]\ntargets = ["a"]\nmodel = "y"', "routes.x.model"),
        ('[routes.x]\ntargets = ["nobody"]', "'nobody' is not another model; there is: m, a, b"),
        ('[routes.x]\ntargets = ["a", "a"]', "names a route twice"),
        ('[routes.x]\ntargets = ["a"]\nbalance = "dice"', "balance = 'dice' is not one of"),
        ('[routes.x]\ntargets = ["a"]\nweights = [0]', "must be 1 numbers above 0"),
        ('[routes.x]\ntargets = ["a"]\nweights = ["1"]', "is not a list of numbers"),
        ('[routes.x]\ncascade = ["a"]', "needs at least two routes"),
        ('[routes.x]\ncascade = ["a", "b"]\nchecks = ["good"]', "'good' is no check"),
        ('[routes.x]\ntargets = ["a"]\nhedge_after_s = 1', "`hedge` must say"),
        ('[routes.x]\ntargets = ["a"]\nhedge = "b"', "needs hedge_after_s above 0"),
        (
            '[routes.x]\ntargets = ["y"]\n[routes.y]\ncascade = ["a", "x"]',
            "routes go in circles: x -> y -> x",
        ),
        ('[routes.x]\nprovider = "one"\nfallback = ["x"]', "'x' is not another model"),
        ('[routing]\ndefault_data_class = "secret"', "'secret' is no class"),
    ],
)
async def test_what_cannot_be_is_refused_with_its_name(
    tmp_path: Path, body: str, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        await routes(tmp_path, body)
    assert said in refused.value.message


async def test_two_routes_may_stand_in_for_each_other(tmp_path: Path) -> None:
    made = await routes(
        tmp_path,
        """
        [routes.x]
        targets = ["a"]
        fallback = ["y"]
        [routes.y]
        targets = ["b"]
        fallback = ["x"]
        """,
    )
    assert (made["x"].calls, made["y"].calls) == (2, 2)
