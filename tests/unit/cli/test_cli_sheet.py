"""Tables lose nothing at 80 columns, and are one line a row outside a terminal."""

import pytest
from rich.console import Console

from headrace.cli import audit, budgets, sheet
from headrace.store.audit import Entry
from headrace.store.limits import Limit, Unit

KEY = "key_0e299afaeeaccefe"
COLUMNS = ("id", "token", "name", "org", "team", "user", "role", "only for", "ends")
ROW = (KEY, "hr-b3gsH…", "ci", "default", "red", "", "member", "search, sprout", "2027-02-28 22:32")


def test_a_terminal_of_80_columns_shows_ids_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sheet, "console", lambda: Console(force_terminal=True, width=80, color_system=None)
    )
    sheet.show_rows(COLUMNS, [ROW], whole=("id", "token"))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert KEY in out
    assert "user" not in out, "a column without values takes no room"
    shown = "".join(out.split())
    for value in ("hr-b3gsH…", "member", "2027-02-28", "22:32", "sprout"):
        assert value in shown
    assert out.count("…") == 1


def test_a_row_outside_a_terminal_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    sheet.show_rows(COLUMNS, [ROW, ROW])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "2027-02-28 22:32" in lines[1]


def test_markup_and_control_characters_of_names_are_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sheet.show_rows(("name",), [("[bold]x[/bold]\x1b[2J\nend",)])
    assert capsys.readouterr().out.splitlines()[1].rstrip() == "[bold]x[/bold]␛[2J end"


def test_without_rows_the_headings_stay(capsys: pytest.CaptureFixture[str]) -> None:
    sheet.show_rows(("id", "name"), [])
    assert capsys.readouterr().out.split() == ["id", "name"]


def test_details_of_the_audit_log_are_words() -> None:
    entry = Entry(
        id=1,
        at_s=1796077970,
        actor="root",
        role="admin",
        via="cli",
        request="",
        action="key.make",
        subject=KEY,
        org="default",
        team="red",
        detail={
            "id": KEY,
            "team": "red",
            "created_s": 1796077970,
            "models": ["sprout", "large"],
            "expires_s": 1803853970,
            "overlap_s": 3600,
        },
    )
    told = audit.detail_of(entry)
    assert told == "models sprout large, expires 2027-02-28 22:32, overlap_s 3600"


@pytest.mark.parametrize(
    ("unit", "window", "amount", "said"),
    [
        (Unit.MONEY, "month", 250 * 10**9, "$250.00 a month"),
        (Unit.CONCURRENCY, "total", 64, "64 at once"),
        (Unit.OUTPUT_TOKENS, "rolling:3600", 40_000, "40000 output tokens in any 3600 s"),
        (Unit.REQUESTS, "total", 5, "5 requests in all"),
    ],
)
def test_a_limit_is_said_in_words(unit: Unit, window: str, amount: int, said: str) -> None:
    limit = Limit(
        id=1, scope="team", subject="red", unit=unit, window=window, amount=amount, zone=""
    )
    assert budgets.said(limit) == said
