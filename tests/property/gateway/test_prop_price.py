"""Integer prices: the bound bounds, the affordable is affordable, the table is the source's."""

from decimal import Decimal

import pytest
from genai_prices import Usage as ListedUsage
from genai_prices import calc_price
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ServiceError
from headrace.gateway.price import FREE, Price, Rate
from headrace.gateway.prices import listed
from headrace.gateway.tariff import Tariff, bill
from headrace.types import Leg, Target, Usage

rates = st.builds(
    Rate,
    input=st.integers(0, 10**11),
    cached=st.integers(0, 10**11),
    written=st.integers(0, 10**11),
    output=st.integers(0, 10**11),
    above=st.integers(1, 1000),
)
prices = st.builds(
    lambda first, more: Price((first, *sorted(more, key=lambda r: r.above))),
    rates,
    st.lists(rates, max_size=2),
)


@given(prices, st.integers(0, 2000), st.integers(0, 2000), st.data())
def test_no_usage_within_the_bound_costs_more(
    price: Price, prompt: int, answer: int, data: st.DataObject
) -> None:
    used = data.draw(st.integers(0, prompt))
    cached = data.draw(st.integers(0, used))
    written = data.draw(st.integers(0, used - cached))
    usage = Usage(
        prompt_tokens=used,
        cached_tokens=cached,
        cache_write_tokens=written,
        completion_tokens=data.draw(st.integers(0, answer)),
    )
    assert 0 <= price.cost(usage) <= price.bound(prompt, answer)


@given(
    st.lists(prices, min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(0, 2000),
    st.integers(0, 2000),
    st.data(),
)
def test_no_legs_within_the_hold_cost_more(
    several: list[Price], calls: int, prompt: int, answer: int, data: st.DataObject
) -> None:
    targets = [Target(provider="p", model=str(at)) for at in range(len(several))]
    tariff = Tariff(dict(zip(targets, several, strict=True)), calls)
    legs: list[Leg] = []
    for _ in range(data.draw(st.integers(0, calls))):
        # Of more models than calls each is called once at most.
        target = data.draw(st.sampled_from(targets))
        if calls <= len(targets) and any(leg.model == target.model for leg in legs):
            continue
        read = data.draw(st.integers(0, prompt))
        cached = data.draw(st.integers(0, read))
        used = Usage(
            prompt_tokens=read,
            cached_tokens=cached,
            completion_tokens=data.draw(st.integers(0, answer)),
        )
        legs.append(
            Leg(
                provider="p",
                model=target.model,
                usage=used,
                outcome="stop",
                seconds=0.0,
                estimated=data.draw(st.booleans()),
            )
        )
    made = bill(tariff, legs, input_tokens=prompt, output_tokens=answer)
    assert made.cost_nanousd <= tariff.bound(prompt, answer)
    assert made.cost_nanousd == sum(line.cost_nanousd for line in made.lines)
    tokens = tariff.affordable(prompt, made.cost_nanousd + 10**6)
    if tokens is not None and tokens >= 0:
        assert tariff.bound(prompt, tokens) <= made.cost_nanousd + 10**6


def test_attribution_never_costs_more_than_the_tokens_would() -> None:
    rate = Rate(input=10**9, cached=10**9, written=10**9, output=4 * 10**9)
    price = Price((rate,), gpu_hour_nanousd=3600 * 10**9, kv_gib_hour_nanousd=3600 * 10**9)
    used = Usage(prompt_tokens=10**6, completion_tokens=0, compute_us=250_000, kv_byte_s=1 << 29)
    assert price.cost(used) == 250_000_000 + 500_000_000  # a quarter second; half a GiB-second
    long = Usage(prompt_tokens=1, completion_tokens=1, compute_us=10**9)
    assert price.cost(long) == 5000 == price.bound(1, 1)


@given(prices, st.integers(0, 2000), st.integers(0, 10**9))
def test_what_is_affordable_is_the_most_that_is(price: Price, prompt: int, money: int) -> None:
    tokens = price.affordable(prompt, money)
    if tokens is None:
        assert price.bound(prompt, 10**9) <= money
    elif tokens >= 0:
        assert price.bound(prompt, tokens) <= money < price.bound(prompt, tokens + 1)
    else:
        assert price.bound(prompt, 0) > money


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini"),
        ("openai", "gpt-4.1"),
        ("anthropic", "claude-sonnet-4-5"),
        ("google", "gemini-2.5-pro"),
    ],
)
@pytest.mark.parametrize("prompt", [1000, 199_999, 200_001])
def test_it_charges_what_the_table_says(provider: str, model: str, prompt: int) -> None:
    now = 1_795_000_000.0
    usage = Usage(prompt_tokens=prompt, cached_tokens=300, completion_tokens=777)
    theirs = calc_price(
        ListedUsage(input_tokens=prompt, cache_read_tokens=300, output_tokens=777),
        model,
        provider_id=provider,
    ).total_price
    ours = Decimal(listed(provider, Target(provider="p", model=model), now).cost(usage)) / 10**9
    assert 0 <= ours - theirs < Decimal("1e-9")


def test_unknown_models_are_refused_and_own_ones_free() -> None:
    with pytest.raises(ServiceError, match="nobody knows what the model p/gpt-nobody-knows costs"):
        listed("openai", Target(provider="p", model="gpt-nobody-knows"), 1_795_000_000.0)
    assert FREE.cost(Usage(prompt_tokens=5, completion_tokens=5)) == 0
    assert FREE.hash != Price((Rate(input=1),)).hash
