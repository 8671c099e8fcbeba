"""Spend → rows in FOCUS 1.2 columns (focus.finops.org): what a finance department's tools read.

A row is a day of one team, feature and model of one provider. Money is exact decimal dollars; there
are no discounts here, so billed, effective, contracted and list cost are the same. What providers'
bills differ by are rows of category Adjustment. Counts that FOCUS has no column for are `x_` ones.
"""

import csv
import datetime
import io
import json
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store.calls import DAY_S, calls
from headrace.store.tables import bills

COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingCategory",
    "ProviderName",
    "PublisherName",
    "ResourceId",
    "ResourceName",
    "ServiceCategory",
    "ServiceName",
    "SkuId",
    "SubAccountId",
    "SubAccountName",
    "Tags",
    "x_Requests",
    "x_PromptTokens",
    "x_CachedTokens",
    "x_CompletionTokens",
    "x_ComputeSeconds",
    "x_KvByteSeconds",
)
OWN = "headrace"
"""Provider of what one's own engine did."""


class Charge(NamedTuple):
    """A day of one team, feature and model."""

    day: int
    org: str
    team: str
    feature: str
    model: str
    provider: str
    upstream: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    compute_us: int
    kv_byte_s: int
    cost_nanousd: int
    category: str = "Usage"


async def charges(
    connection: AsyncConnection,
    *,
    since_s: int = 0,
    until_s: int = 1 << 52,
    org: str | None = None,
    team: str | None = None,
) -> list[Charge]:
    """What was spent, a row a day and whose; with no `org` and `team` also what bills adjust."""
    table = calls()
    day = table.c.at_s.op("/")(literal_column(str(DAY_S)))
    groups = [day, *(table.c[name] for name in Charge._fields[1:7])]
    sums = [func.coalesce(func.sum(table.c[name]), 0) for name in Charge._fields[8:14]]
    query = (
        select(*groups, func.count(table.c.request.distinct()), *sums)
        .where(table.c.at_s >= since_s, table.c.at_s < until_s)
        .group_by(*groups)
        .order_by(*groups)
    )
    for name, value in (("org", org), ("team", team)):
        if value is not None:
            query = query.where(table.c[name] == value)
    found: list[Charge] = []
    for row in await connection.execute(query):
        values = tuple(row)
        counts = [int(value) for value in values[7:]]
        found.append(Charge._make((int(values[0]), *values[1:7], *counts, "Usage")))
    if org is None and team is None:
        found += await _adjustments(connection, since_s=since_s, until_s=until_s)
    return found


def rows(found: Sequence[Charge]) -> list[dict[str, str]]:
    """Charges in FOCUS columns."""
    return [_row(charge) for charge in found]


def as_csv(found: Sequence[Charge]) -> str:
    """The same as CSV with a header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list[str](COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(found))
    return out.getvalue()


async def _adjustments(connection: AsyncConnection, *, since_s: int, until_s: int) -> list[Charge]:
    query = (
        select(bills.c.day, bills.c.provider, bills.c.upstream, func.sum(bills.c.variance_nanousd))
        .where(bills.c.day * DAY_S >= since_s - since_s % DAY_S, bills.c.day * DAY_S < until_s)
        .group_by(bills.c.day, bills.c.provider, bills.c.upstream)
        .order_by(bills.c.day, bills.c.provider, bills.c.upstream)
    )
    made: list[Charge] = []
    for day, provider, upstream, variance in await connection.execute(query):
        if int(variance):
            whose = (int(day), "", "", "", "", str(provider), str(upstream))
            made.append(Charge(*whose, 0, 0, 0, 0, 0, 0, int(variance), "Adjustment"))
    return made


def _row(charge: Charge) -> dict[str, str]:
    day = datetime.date(1970, 1, 1) + datetime.timedelta(days=charge.day)
    month = day.replace(day=1)
    after = (month + datetime.timedelta(days=32)).replace(day=1)
    cost = _decimal(charge.cost_nanousd)
    usage = charge.category == "Usage"
    provider = charge.provider or OWN
    name = charge.upstream or charge.model
    what = f"tokens of {name}" if usage else f"difference to the bill of {provider}"
    tags = {
        key: value
        for key, value in (
            ("org", charge.org),
            ("team", charge.team),
            ("feature", charge.feature),
            ("model", charge.model),
        )
        if value
    }
    tokens = charge.prompt_tokens + charge.completion_tokens
    return {
        **dict.fromkeys(COLUMNS, ""),
        "BilledCost": cost,
        "BillingAccountId": charge.org or "all",
        "BillingCurrency": "USD",
        "BillingPeriodEnd": _moment(after),
        "BillingPeriodStart": _moment(month),
        "ChargeCategory": charge.category,
        "ChargeClass": "" if usage else "Correction",
        "ChargeDescription": what,
        "ChargeFrequency": "Usage-Based" if usage else "One-Time",
        "ChargePeriodEnd": _moment(day + datetime.timedelta(days=1)),
        "ChargePeriodStart": _moment(day),
        "ConsumedQuantity": str(tokens) if usage else "",
        "ConsumedUnit": "Tokens" if usage else "",
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "InvoiceIssuerName": provider,
        "ListCost": cost,
        "PricingCategory": "Standard" if usage else "",
        "ProviderName": provider,
        "PublisherName": provider,
        "ResourceId": name,
        "ResourceName": name,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Language model tokens",
        "SkuId": f"{provider}/{name}",
        "SubAccountId": charge.team,
        "SubAccountName": charge.team,
        "Tags": json.dumps(tags, sort_keys=True),
        "x_Requests": str(charge.requests),
        "x_PromptTokens": str(charge.prompt_tokens),
        "x_CachedTokens": str(charge.cached_tokens),
        "x_CompletionTokens": str(charge.completion_tokens),
        "x_ComputeSeconds": f"{charge.compute_us // 10**6}.{charge.compute_us % 10**6:06d}",
        "x_KvByteSeconds": str(charge.kv_byte_s),
    }


def _decimal(nanousd: int) -> str:
    sign, size = "-" if nanousd < 0 else "", abs(nanousd)
    return f"{sign}{size // 10**9}.{size % 10**9:09d}"


def _moment(day: datetime.date) -> str:
    return f"{day.isoformat()}T00:00:00Z"
