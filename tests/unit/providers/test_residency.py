"""Where requests of a data class may go; on doubt nowhere."""

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.config import DataClassSettings, load
from headrace.errors import ConfigError, InvalidParameter, PlaceForbidden
from headrace.providers.assemble import open_routes
from headrace.providers.residency import Place, Residency
from headrace.types import Caller
from routed import answer, asked, notes, says
from upstreams import OPENAI_ANSWER, Say, upstream

OWN = Place(provider="vllm", region="eu-central")
API = Place(provider="claude", managed=True, region="us-east")
HERE = Place(region="")
CLASSES = {
    "secret": DataClassSettings(managed=False),
    "eu": DataClassSettings(regions=("eu-*",)),
    "contract": DataClassSettings(providers=("claude",)),
}


def caller(*classes: str) -> Caller:
    return Caller(data_classes=frozenset(classes))


@pytest.mark.parametrize(
    ("classes", "place", "allowed"),
    [
        ((), API, True),
        (("secret",), API, False),
        (("secret",), OWN, True),
        (("eu",), OWN, True),
        (("eu",), API, False),
        # A place of unknown region is in none.
        (("eu",), HERE, False),
        (("contract",), API, True),
        (("contract",), OWN, False),
        # The local model is nobody else's.
        (("contract",), HERE, True),
        # All classes of a request hold.
        (("secret", "contract"), API, False),
        # A class that nobody knows goes nowhere.
        (("gone",), OWN, False),
    ],
)
def test_places(classes: tuple[str, ...], place: Place, *, allowed: bool) -> None:
    assert (Residency(CLASSES).forbids(caller(*classes), place) == "") is allowed


def test_an_air_gap_needs_no_class() -> None:
    gap = Residency(air_gap=True)
    assert "air gap" in gap.forbids(caller(), API)
    assert gap.forbids(caller(), OWN) == ""


def test_a_key_s_class_and_a_header_s_both_hold_and_else_the_default() -> None:
    rules = Residency(CLASSES, default="eu")
    assert rules.classes_of(frozenset({"secret"}), "contract") == {"secret", "contract"}
    assert rules.classes_of(frozenset(), None) == {"eu"}
    assert rules.classes_of(frozenset(), " ") == {"eu"}
    assert not rules.forbids(caller(), OWN)
    assert rules.forbids(caller(), API)
    with pytest.raises(InvalidParameter, match="'top' is not known here; there is: secret, eu"):
        rules.classes_of(frozenset(), "top")
    with pytest.raises(ConfigError, match="'top' is no class"):
        Residency(CLASSES, default="top")


async def test_nothing_is_sent_to_a_managed_api_by_any_way(tmp_path: Path) -> None:
    with upstream(Say(body=OPENAI_ANSWER)) as api:
        file = tmp_path / "headrace.toml"
        file.write_text(
            f"""
            [data_classes.secret]
            managed = false
            [providers.api]
            kind = "compatible"
            url = "{api.url}"
            [routes.direct]
            provider = "api"
            [routes.pool]
            targets = ["direct"]
            [routes.steps]
            cascade = ["direct", "m"]
            [routes.hedged]
            provider = "api"
            hedge = "direct"
            hedge_after_s = 0.01
            [routes.safe]
            provider = "api"
            fallback = ["m"]
            """
        )
        async with AsyncExitStack() as stack:
            made = open_routes(load(file=file, environ={}), {"m": says("local")}, stack)
            for name in ("direct", "pool", "hedged"):
                request = asked(caller=caller("secret"))
                with pytest.raises(PlaceForbidden, match="'secret' may not go to a managed API"):
                    await answer(made[name].chat.stream(request))
                assert notes(request, "residency")
            for name in ("steps", "safe"):
                assert await answer(made[name].chat.stream(asked(caller=caller("secret")))) == (
                    "local"
                )
            assert not api.asked
            assert (await answer(made["direct"].chat.stream(asked()))).startswith("żó")
            assert len(api.asked) == 1


async def test_a_provider_that_counts_reads(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(
        """
        [routing]
        air_gap = true
        [providers.claude]
        kind = "anthropic"
        key = "file:KEY"
        [routes.r]
        provider = "claude"
        """.replace("KEY", str(tmp_path / "key"))
    )
    (tmp_path / "key").write_text("k")
    async with AsyncExitStack() as stack:
        counter = open_routes(load(file=file, environ={}), {}, stack)["r"].counter
        assert counter is not None
        with pytest.raises(PlaceForbidden, match="air gap"):
            await counter.count(replace(asked(), model="r"))
