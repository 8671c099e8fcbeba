"""`headrace budgets set|list|remove`: limits of money, requests, tokens and concurrency."""

import time
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.cli.report import emit_json
from headrace.cli.sheet import show_rows
from headrace.cli.stored import dollars, note, run, when
from headrace.errors import UserError
from headrace.gateway.prices import nanousd
from headrace.gateway.slices import shown
from headrace.store import identity, limits
from headrace.store.limits import Limit, Unit
from headrace.store.spend import standings
from headrace.store.windows import FOREVER_S

budgets = typer.Typer(no_args_is_help=True, help="What may be spent, by whom and in which time.")


@budgets.callback()
def group() -> None:
    """What may be spent, by whom and in which time."""


@budgets.command("set")
def set_(
    ctx: typer.Context,
    subject: Annotated[
        str,
        typer.Argument(
            help="SCOPE:NAME: org:acme, team:red, user:ann, key:key_1, feature:acme/search."
        ),
    ],
    amount: Annotated[str, typer.Argument(help="Dollars (25.50) for money, else a whole number.")],
    unit: Annotated[Unit, typer.Option(help="Of what.")] = Unit.MONEY,
    window: Annotated[
        str, typer.Option(help="minute, hour, day, week, month, total or rolling:SECONDS.")
    ] = "month",
    zone: Annotated[str, typer.Option(help="Time zone of days, weeks and months.")] = "",
) -> None:
    """Set a limit; running gateways know within half a second."""
    scope, colon, name = subject.partition(":")
    if not colon:
        raise UserError(f"{subject!r} has no scope: write team:{subject}")
    now_s = int(time.time())
    chosen = "total" if unit is Unit.CONCURRENCY else window

    async def work(connection: AsyncConnection) -> Limit:
        await identity.ensure_default(connection, now_s=now_s)
        made = await limits.set_limit(
            connection,
            scope=scope,
            subject=name,
            unit=unit,
            window=chosen,
            amount=_amount(unit, amount),
            zone=zone,
            now_s=now_s,
        )
        await _note(connection, "limit.set", made)
        return made

    made = run(ctx, work)
    typer.echo(f"limit {made.id}: {subject}, {said(made)}")


@budgets.command("list")
def list_(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """List limits, and what their windows of now have used."""
    found = run(ctx, lambda connection: standings(connection, now_s=time.time()))
    if as_json:
        emit_json(
            [
                {
                    "id": s.limit.id,
                    "scope": s.limit.scope,
                    "subject": s.limit.subject,
                    "unit": s.limit.unit,
                    "window": s.limit.window,
                    "zone": s.limit.zone,
                    "amount": s.limit.amount,
                    "spent": s.spent,
                    "leased": s.leased,
                    "lost": s.lost,
                    "ends_s": None if s.ends_s >= FOREVER_S else s.ends_s,
                }
                for s in found
            ]
        )
        return
    show_rows(
        ("limit", "who", "window", "amount", "spent", "lent", "lost", "until (UTC)"),
        [
            (
                str(s.limit.id),
                f"{s.limit.scope}:{s.limit.subject}",
                s.limit.window,
                _most(s.limit),
                *(_bare(s.limit.unit, value) for value in (s.spent, s.leased, s.lost)),
                "" if s.ends_s >= FOREVER_S else when(s.ends_s),
            )
            for s in found
        ],
        whole=("limit",),
    )


@budgets.command()
def remove(
    ctx: typer.Context, limit: Annotated[int, typer.Argument(help="Its number in the list.")]
) -> None:
    """Remove a limit and its windows; what was spent stays in the ledger."""

    async def work(connection: AsyncConnection) -> None:
        found = [item for item in await limits.all_limits(connection) if item.id == limit]
        await limits.remove_limit(connection, limit)
        await _note(connection, "limit.remove", found[0])

    run(ctx, work)
    typer.echo(f"limit {limit} is removed")


async def _note(connection: AsyncConnection, action: str, limit: Limit) -> None:
    whose = await limits.owner(connection, limit)
    await note(
        connection,
        action,
        f"{limit.scope}:{limit.subject}",
        org=whose.org,
        team=whose.team,
        detail=asdict(limit),
    )


def _amount(unit: Unit, text: str) -> int:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise UserError(f"{text!r} is not a number") from None
    if not value.is_finite() or value < 0:
        raise UserError(f"{text!r} is not an amount")
    if unit is Unit.MONEY:
        return nanousd(value)
    if value != int(value):
        raise UserError(f"{text!r}: {unit.value} are whole")
    return int(value)


def _bare(unit: Unit, amount: int) -> str:
    return dollars(amount) if unit is Unit.MONEY else str(amount)


def _most(limit: Limit) -> str:
    if limit.unit is Unit.CONCURRENCY:
        return f"{limit.amount} at once"
    return shown(limit.unit, limit.amount)


def said(limit: Limit) -> str:
    """A limit in words."""
    amount = _most(limit)
    if limit.unit is Unit.CONCURRENCY:
        return amount
    if limit.window == "total":
        return f"{amount} in all"
    if limit.window.startswith("rolling:"):
        return f"{amount} in any {limit.window.removeprefix('rolling:')} s"
    return f"{amount} a {limit.window}"
