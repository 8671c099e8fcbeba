"""Providers' exports are read as they come, and what is none of them is refused by name."""

from decimal import Decimal

import pytest

from headrace.errors import InvalidParameter
from headrace.gateway.bill_files import money, read_bill
from headrace.types import Usage

DAY = 20_366  # 2025-10-05


def test_openais_costs() -> None:
    [found, other] = read_bill(
        "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,"
        "project_id,organization_id,organization_name\n"
        '1759622400,1759708800,a,b,0.8958740000000000,usd,"gpt-5-mini-2025-08-07, input",,org,Me\n'
        '1759622400,1759708800,a,b,1e-3,usd,"gpt-5-mini-2025-08-07, output",,org,Me\n'
        "1759968000,1760054400,a,b,,,,,,\n"
    )
    assert (found.model, found.day, found.dollars) == (
        "gpt-5-mini-2025-08-07",
        DAY,
        Decimal("0.895874"),
    )
    assert other.dollars == Decimal("0.001")


def test_openais_usage() -> None:
    [found] = read_bill(
        "start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,user_id,"
        "api_key_id,model,batch,service_tier,input_tokens,output_tokens,input_cached_tokens\n"
        "1759622400,1759622460,a,b,,1,,,gpt-5-mini-2025-08-07,,,120,30,100\n"
    )
    assert found.usage == Usage(prompt_tokens=120, cached_tokens=100, completion_tokens=30)
    assert found.dollars is None


def test_anthropics_usage_counts_do_not_overlap() -> None:
    [found] = read_bill(
        "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,"
        "usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,"
        "usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens,"
        "web_search_count,inference_geo,speed\n"
        "2025-10-05,claude-sonnet-4-5,k,Default,standard,≤ 200k,10,4,1,20,9,0,us,standard\n"
    )
    assert found.day == DAY
    assert found.usage == Usage(
        prompt_tokens=35, cached_tokens=20, cache_write_tokens=5, completion_tokens=9
    )


def test_anthropics_cost() -> None:
    [found] = read_bill(
        "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd\n"
        "2025-10-05,claude-sonnet-4-5,Default,k,message,≤ 200k,output_tokens,1.5\n"
    )
    assert (found.model, found.dollars) == ("claude-sonnet-4-5", Decimal("1.5"))


def test_plain_by_request() -> None:
    [found] = read_bill(
        "\ufeffdate,model,request_id,prompt_tokens,completion_tokens\n2025-10-05T12:00,m,r1,3,4\n"
    )
    assert (found.request, found.usage.prompt_tokens, found.dollars) == ("r1", 3, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no bill of OpenAI"),
        ("a,b\n1,2\n", "no bill of OpenAI"),
        ("date,model,cost_usd\nyesterday,m,1\n", "line 2"),
        ("date,model,cost_usd\n2025-10-05,m,NaN\n", "no sum of money"),
        ("date,model,prompt_tokens\n2025-10-05,m,1.5\n", "no count of tokens"),
        (
            "start_time,amount_value,amount_currency,line_item\n1759622400,1,eur,m\n",
            "not usd",
        ),
    ],
)
def test_what_is_no_bill_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        read_bill(text)


def test_a_credit_is_negative() -> None:
    assert money(Decimal("-0.5")) == -500_000_000
