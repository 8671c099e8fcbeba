"""`headrace VERB ...`: arguments become one verb's call, and any error one line and an exit code.

The root is plain Python: `headrace --help` reads a table and imports no verb, no typer and no
torch. A verb's module is imported when it is called; its attribute is a `typer.Typer` or a plain
function, of which typer makes a command.

Exit codes: 0 done, 1 failed, 2 the caller can mend it (arguments, settings, files), 130 Ctrl-C.
"""

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from headrace import __version__
from headrace.cli.terminal import show
from headrace.config import Settings, load, with_value
from headrace.errors import ConfigError, HeadraceError, UserError

ISSUES_URL = "https://github.com/headrace/headrace/issues"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verb:
    """A line of the table: what `headrace NAME` imports and calls."""

    name: str
    target: str
    """`module:attribute`."""
    help: str


VERBS = (
    Verb(name="serve", target="headrace.cli.serve:serve", help="serve a model over HTTP"),
    Verb(name="chat", target="headrace.cli.chat:chat", help="talk with a model in the terminal"),
    Verb(name="generate", target="headrace.cli.generate:generate", help="answer one prompt"),
    Verb(name="embed", target="headrace.cli.embed:embed", help="texts to vectors"),
    Verb(
        name="index",
        target="headrace.cli.index:index",
        help="documents to passages and cited answers",
    ),
    Verb(name="data", target="headrace.cli.data:data", help="make texts into training data"),
    Verb(name="train", target="headrace.cli.train:train", help="train a model from text"),
    Verb(
        name="quantize",
        target="headrace.cli.quantize:quantize",
        help="make a model smaller and faster",
    ),
    Verb(
        name="adapter",
        target="headrace.cli.adapter:adapter",
        help="inspect, merge, unmerge, export adapters",
    ),
    Verb(
        name="export",
        target="headrace.cli.export:export",
        help="write a model for other programs",
    ),
    Verb(name="model", target="headrace.cli.model:model", help="look into a checkpoint"),
    Verb(
        name="tokens", target="headrace.cli.tokens:tokens", help="count, inspect, train tokenizers"
    ),
    Verb(name="keys", target="headrace.cli.keys:keys", help="make, rotate, revoke API keys"),
    Verb(name="teams", target="headrace.cli.teams:teams", help="organizations, teams and users"),
    Verb(
        name="budgets",
        target="headrace.cli.budgets:budgets",
        help="limits of money, requests and tokens",
    ),
    Verb(name="route", target="headrace.cli.route:route", help="where requests go, and why"),
    Verb(name="cache", target="headrace.cli.cache:cache", help="forget kept answers"),
    Verb(name="spend", target="headrace.cli.spend:spend", help="what was spent, and prices"),
    Verb(name="audit", target="headrace.cli.audit:audit", help="who changed what, when"),
    Verb(name="ledger", target="headrace.cli.ledger:ledger", help="check the books"),
    Verb(
        name="explain",
        target="headrace.cli.explain:explain",
        help="what happened to one request",
    ),
    Verb(name="traces", target="headrace.cli.traces:traces", help="list, export, delete traces"),
    Verb(name="config", target="headrace.cli.config:config", help="check and show settings"),
    Verb(name="bench", target="headrace.cli.bench:bench", help="measure latency and throughput"),
    Verb(name="doctor", target="headrace.cli.doctor:doctor", help="which kernels run, how fast"),
)


_GLOBAL = {"--config": "FILE", "--set": "KEY=VALUE", "--debug": ""}
"""What stands before the verb -> its value's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GlobalOptions:
    """What stands before the verb; a verb finds it as its context's `obj`."""

    config: Path | None = None
    sets: tuple[str, ...] = ()
    debug: bool = False

    def settings(self, changes: Mapping[str, object] | None = None) -> Settings:
        """The settings these options ask for.

        Args:
            changes: Dotted key -> value from the verb's own options; None = not given.

        Raises:
            ConfigError: As `headrace.config.load` and `with_value`.
        """
        made = load(file=self.config, sets=self.sets)
        for key, value in (changes or {}).items():
            if value is not None:
                made = with_value(made, key, value, origin="command line")
        return made


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; `arguments` None = this process's."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options, rest = _parse_globals(words)
    except UserError as error:
        sys.exit(_report(error, debug=False))
    finish(lambda: _dispatch(options, rest), debug=options.debug)


def finish(work: Callable[[], int], *, debug: bool) -> NoReturn:
    """Do it and exit as it says; any error becomes one line and an exit code."""
    try:
        code = work()
        sys.stdout.flush()  # here, so that a reader that left is seen here
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # Nobody reads; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:  # noqa: BLE001 - the last line of defence turns it into one line
        code = _report(error, debug=debug)
    sys.exit(code)


def _parse_globals(words: list[str]) -> tuple[GlobalOptions, list[str]]:
    config: Path | None = None
    sets: list[str] = []
    debug = False
    position = 0
    while position < len(words) and words[position].startswith("-"):
        name, joined, value = words[position].partition("=")
        position += 1
        match name:
            case "--help" | "-h" | "--version" | "-V":
                return GlobalOptions(debug=debug), [name]
            case "--debug" if not joined:
                debug = True
            case "--config" | "--set":
                if not joined:
                    if position == len(words):
                        example = "headrace.toml" if name == "--config" else "server.port=9000"
                        raise UserError(f"{name} needs a value: headrace {name} {example} VERB")
                    value = words[position]
                    position += 1
                if name == "--config":
                    config = Path(value)
                else:
                    sets.append(value)
            case _:
                raise UserError(
                    f"unknown option {words[position - 1]!r} before the verb;"
                    " there are --config FILE, --set KEY=VALUE, --debug, --version and --help"
                )
    return GlobalOptions(config=config, sets=tuple(sets), debug=debug), words[position:]


def _dispatch(options: GlobalOptions, words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        sys.stdout.write(_help())
        return 0 if words else 2
    if words[0] in ("--version", "-V"):
        sys.stdout.write(f"headrace {__version__}\n")
        return 0
    verb = next((verb for verb in VERBS if verb.name == words[0]), None)
    if verb is None:
        names = [verb.name for verb in VERBS]
        close = difflib.get_close_matches(words[0], names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
        raise UserError(f"no verb {words[0]!r}; {hint}")
    return _run_verb(verb, options, words)


def _run_verb(verb: Verb, options: GlobalOptions, words: list[str]) -> int:
    import typer

    options.settings()  # a mistyped key is refused also by verbs that need no settings
    module, _, attribute = verb.target.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    # A group around the one verb keeps its name in usage lines and keeps typer from folding a
    # Typer of a single command into that command.
    root = typer.Typer(add_completion=False, rich_markup_mode=None)
    root.callback()(_nothing)
    if isinstance(target, typer.Typer):
        root.add_typer(target, name=verb.name)
    else:
        root.command(verb.name)(target)
    command = typer.main.get_command(root)
    _refuse_misplaced(words, known=set(_options(command)))
    try:
        command.main(args=words, prog_name="headrace", obj=options)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _options(command: object) -> Iterator[str]:
    """The names of all options of a command and of the commands under it."""
    for parameter in getattr(command, "params", ()):
        yield from parameter.opts
    for under in getattr(command, "commands", {}).values():
        yield from _options(under)


def _refuse_misplaced(words: Sequence[str], *, known: Set[str]) -> None:
    for word in words[1:]:
        name = word.partition("=")[0]
        if name == "--":
            return
        if name in _GLOBAL and name not in known:
            example = " ".join(filter(None, ("headrace", name, _GLOBAL[name], words[0])))
            raise UserError(f"{name} goes before the verb: {example} ...")


def _nothing() -> None:
    """The root of the group around a verb has no options of its own."""


def _help() -> str:
    width = max(len(verb.name) for verb in VERBS)
    lines = [f"  {verb.name:<{width}}  {verb.help}" for verb in VERBS]
    return "\n".join(
        (
            "usage: headrace [--config FILE] [--set KEY=VALUE]... [--debug] VERB ...",
            "",
            "The whole language-model stack: from text to tokens to a production answer.",
            "",
            "verbs:",
            *lines,
            "",
            "options before the verb:",
            "  --config FILE    settings as TOML (default: headrace.toml, where there is one)",
            "  --set KEY=VALUE  one setting, the last word (server.port=9000); repeatable",
            "  --debug          on an error, the whole traceback",
            "  --version        the version",
            "",
            "'headrace VERB --help' has the verb's own.",
            "",
        )
    )


def _report(error: Exception, *, debug: bool) -> int:
    """Say on stderr what went wrong, and how the process should exit."""
    if debug:
        traceback.print_exception(error)
    match error:
        case UserError() | ConfigError():
            line, code = error.message, 2
        case HeadraceError():
            line, code = error.message, 1
        case FileNotFoundError() | NotADirectoryError() | IsADirectoryError() | PermissionError():
            where = f"{error.filename}: " if error.filename is not None else ""
            line, code = f"{where}{error.strerror or error}", 2
        case OSError():
            where = f"{error.filename}: " if error.filename is not None else ""
            line, code = f"{where}{error.strerror or error}", 1
        case _:
            line, code = (
                f"{type(error).__name__}: {error}\n"
                f"This is a bug in headrace {__version__}. Please report it at {ISSUES_URL}"
                " with what 'headrace --debug ...' prints.",
                1,
            )
    show(sys.stderr, f"error: {line}\n")
    return code
