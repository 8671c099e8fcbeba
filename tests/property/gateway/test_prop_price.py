"""Integer prices: the bound bounds, the affordable is affordable, the table is the source's."""

from decimal import Decimal

import pytest
from genai_prices import Usage as ListedUsage
from genai_prices import calc_price
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidParameter
from headrace.gateway.price import FREE, Price, Rate
from headrace.gateway.prices import listed
from headrace.types import Usage

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
    ours = Decimal(listed(provider, model, now).cost(usage)) / 10**9
    assert 0 <= ours - theirs < Decimal("1e-9")


def test_unknown_models_are_refused_and_own_ones_free() -> None:
    with pytest.raises(InvalidParameter, match="no price is known"):
        listed("openai", "gpt-nobody-knows", 1_795_000_000.0)
    assert FREE.cost(Usage(prompt_tokens=5, completion_tokens=5)) == 0
    assert FREE.hash != Price((Rate(input=1),)).hash
