"""The root of the command line: what it parses itself, and what becomes of every kind of error."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

import headrace.cli as root
from headrace.cli import GlobalOptions, Verb, main, report
from headrace.errors import CheckpointError, ConfigError, InvalidParameter, Overloaded

Run = Callable[..., int]


@pytest.fixture(autouse=True)
def _no_settings_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Puts a target behind `headrace try`."""

    def put(target: object) -> None:
        module = types.ModuleType("a_verb_to_try")
        module.__dict__["target"] = target
        monkeypatch.setitem(sys.modules, "a_verb_to_try", module)
        line = Verb(name="try", target="a_verb_to_try:target", help="for tests")
        monkeypatch.setattr(root, "VERBS", (*root.VERBS, line))

    return put


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_lists_every_verb(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(word) == 0
    out = capsys.readouterr().out
    for known in root.VERBS:
        assert f"  {known.name}" in out
        assert known.help in out


def test_no_verb_is_help_and_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "usage: headrace" in capsys.readouterr().out


def test_verbs_are_frozen() -> None:
    names = [known.name for known in root.VERBS]
    assert names == [
        "serve",
        "chat",
        "generate",
        "embed",
        "index",
        "data",
        "train",
        "quantize",
        "adapter",
        "export",
        "model",
        "tokens",
        "keys",
        "teams",
        "budgets",
        "route",
        "cache",
        "spend",
        "audit",
        "ledger",
        "explain",
        "traces",
        "config",
        "bench",
        "doctor",
    ]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"headrace {root.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["srve"], "no verb 'srve'; did you mean serve?"),
        (["zzzzzz"], "no verb 'zzzzzz'; there are serve, chat"),
        (["--colour", "serve"], "unknown option '--colour' before the verb"),
        (["--debug=1", "serve"], "unknown option '--debug=1'"),
        (["--config"], "--config needs a value: headrace --config headrace.toml VERB"),
        (["--set"], "--set needs a value: headrace --set server.port=9000 VERB"),
        (["--set", "server.prt=1", "generate", "x"], "did you mean server.port?"),
        (["--set", "server.port", "generate", "x"], "has no '='"),
        (["--set", "server.port=many", "generate", "x"], "is not a int"),
        (["--config", "absent.toml", "generate", "x"], "cannot read absent.toml"),
        (["serve", "--set", "server.port=81"], "headrace --set KEY=VALUE serve ..."),
        (["generate", "x", "--config=y.toml"], "--config goes before the verb"),
        (["generate", "x", "--debug"], "headrace --debug generate ..."),
    ],
)
def test_a_slip_is_one_line_and_two(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InvalidParameter("`n` is 0; give 1 or more"), 2, "`n` is 0; give 1 or more"),
        (ConfigError("no such setting"), 2, "no such setting"),
        (FileNotFoundError(2, "No such file or directory", "x.txt"), 2, "x.txt: No such file"),
        (IsADirectoryError(21, "Is a directory", "x"), 2, "x: Is a directory"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (CheckpointError("model.safetensors is cut off"), 1, "model.safetensors is cut off"),
        (Overloaded("queue full"), 1, "queue full"),
        (ValueError("odd"), 1, "ValueError: odd\nThis is a bug in headrace"),
    ],
)
def test_an_error_is_a_line_and_a_code(
    error: Exception,
    code: int,
    line: str,
    verb: Callable[[object], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def raises() -> None:
        raise error

    verb(raises)
    assert run("try") == code
    err = capsys.readouterr().err
    assert err.startswith(f"error: {line}")
    assert "Traceback" not in err
    assert run("--debug", "try") == code
    assert "Traceback" in capsys.readouterr().err


def test_an_unexpected_error_says_where_to_report(
    verb: Callable[[object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def raises() -> None:
        raise KeyError("x")

    verb(raises)
    assert run("try") == 1
    assert root.ISSUES_URL in capsys.readouterr().err


def test_interrupt_is_130(verb: Callable[[object], None]) -> None:
    def raises() -> None:
        raise KeyboardInterrupt

    verb(raises)
    assert run("try") == 130


def test_a_verb_may_choose_its_code(verb: Callable[[object], None]) -> None:
    def exits() -> None:
        raise typer.Exit(7)

    verb(exits)
    assert run("try") == 7


def test_a_function_gets_its_arguments_and_the_settings(verb: Callable[[object], None]) -> None:
    seen: list[Any] = []

    def takes(
        ctx: typer.Context, name: str, port: Annotated[int | None, typer.Option()] = None
    ) -> None:
        assert isinstance(ctx.obj, GlobalOptions)
        seen.append((name, report.settings(ctx, {"server.port": port})))

    verb(takes)
    assert run("--set", "server.host=::1", "--set=server.port=81", "try", "a") == 0
    assert run("--set", "server.port=81", "try", "b", "--port", "82") == 0
    (first, one), (second, two) = seen
    assert (first, one.server.host, one.server.port) == ("a", "::1", 81)
    assert one.origins["server.port"] == "--set"
    assert (second, two.server.port) == ("b", 82)
    assert two.origins["server.port"] == "command line"


def test_config_file_is_read(verb: Callable[[object], None], tmp_path: Path) -> None:
    seen: list[int] = []

    def takes(ctx: typer.Context) -> None:
        seen.append(report.settings(ctx).server.port)

    verb(takes)
    file = tmp_path / "mine.toml"
    file.write_text("[server]\nport = 9123\n")
    assert run("--config", str(file), "try") == 0
    assert run(f"--config={file}", "--set", "server.port=9124", "try") == 0
    assert seen == [9123, 9124]


def test_a_typer_of_one_command_keeps_that_command(
    verb: Callable[[object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    group = typer.Typer(add_completion=False)

    def inspect(path: str) -> None:
        sys.stdout.write(f"inspecting {path}\n")

    group.command()(inspect)
    verb(group)
    assert run("try", "inspect", "here") == 0
    assert capsys.readouterr().out == "inspecting here\n"
    assert run("try", "inspct") == 2
    assert run("try", "--help") == 0
    assert "headrace try" in capsys.readouterr().out


def test_a_wrong_argument_of_a_verb_is_two(
    verb: Callable[[object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def takes(number: int) -> None:
        raise AssertionError(number)

    verb(takes)
    assert run("try", "many") == 2
    assert run("try") == 2
    assert "headrace try" in capsys.readouterr().err
