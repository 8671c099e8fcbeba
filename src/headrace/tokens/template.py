"""A chat template's source → compiled code that renders `Traced` text under limits.

Hugging Face's dialect: Jinja2 in an immutable sandbox with `trim_blocks`, `lstrip_blocks`,
`loopcontrols`, the `generation` tag, the globals `raise_exception` and `strftime_now`, and a
`tojson` that escapes nothing for HTML (transformers' chat_template_utils.py is the tests' oracle).

Before compiling, the syntax tree is instrumented: string literals and template text become `Traced`
constants, so that what the template itself says is known by construction and not guessed, and every
loop and macro body begins with a call that counts steps. That call is also what ends a template
that loops: it works in any thread and needs no signal or trace function, and between two calls
Jinja can only do work that is bounded (`range` by its sandbox, growth by `limit_size`).
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from headrace.errors import TemplateError
from headrace.tokens.provenance import (
    LITERAL,
    Origin,
    Traced,
    concat,
    limit_nodes,
    limit_size,
    mixed,
    runs_of,
    text_of,
    traced,
)

MAX_STEPS = 1_000_000
"""Loop iterations and macro calls of one rendering."""

_STEP, _LEAVE, _CONCAT, _METER = (
    "_headrace_step",
    "_headrace_leave",
    "_headrace_concat",
    "_headrace",
)
_LITERAL = "_headrace_literal_"


class Meter:
    """One rendering's state: its limits, and which message the template's loop is at."""

    def __init__(
        self, *, messages: Mapping[int, int], containers: Mapping[int, Origin], limit_s: float
    ) -> None:
        self.message: int | None = None
        self._messages = messages
        self.containers = containers
        self._limit_s = limit_s
        self._ends_s = time.monotonic() + limit_s
        self._steps = 0
        self._loops: list[tuple[int, int | None]] = []

    def step(self, loop: int, item: object = None) -> str:
        """Begin an iteration of a loop, or a macro; prints nothing."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise TemplateError(
                f"the chat template ran more than {MAX_STEPS} loop iterations; it seems not to end"
            )
        if time.monotonic() > self._ends_s:
            raise TemplateError(f"the chat template ran longer than {self._limit_s:g} s")
        found = self._messages.get(id(item))
        if found is not None:
            if not self._loops or self._loops[-1][0] != loop:
                self._loops.append((loop, self.message))
            self.message = found
        return ""

    def leave(self, loop: int) -> str:
        """End a loop; prints nothing."""
        if self._loops and self._loops[-1][0] == loop:
            self.message = self._loops.pop()[1]
        return ""


class CompiledTemplate:
    """Code of one template source; shared between threads."""

    def __init__(self, source: str) -> None:
        """Compile.

        Raises:
            TemplateError: A syntax error, with its line.
        """
        try:
            tree = _ENVIRONMENT.parse(source)
            instrument = _Instrument()
            instrument.visit(tree)
            tree.set_environment(_ENVIRONMENT)
            code = _ENVIRONMENT.compile(tree)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template does not compile: line {error.lineno}: {error.message}"
            ) from error
        except RecursionError as error:
            raise TemplateError("the chat template does not compile: nested too deeply") from error
        self._template = jinja2.Template.from_code(
            _ENVIRONMENT, code, _ENVIRONMENT.make_globals(instrument.literals)
        )

    def render(self, variables: Mapping[str, Any], meter: Meter) -> Iterator[str]:
        """The pieces of the rendered text, as they are made.

        Raises:
            TemplateError: The template raised, or ran into a limit.
        """
        own = {_METER: meter, _STEP: meter.step, _LEAVE: meter.leave, _CONCAT: _concat}
        context = self._template.new_context({**variables, **own})
        size = 0
        try:
            for chunk in self._template.root_render_func(context):
                size += len(chunk)
                limit_size(size)
                yield chunk
        except TemplateError:
            raise
        except RecursionError as error:
            raise TemplateError("the chat template calls itself without end") from error
        except jinja2.TemplateError as error:
            raise TemplateError(f"the chat template refused: {error.message or error}") from error
        except Exception as error:  # whatever Python raises inside somebody's template
            raise TemplateError(
                f"the chat template failed: {type(error).__name__}: {error}"
            ) from error


class _Instrument(NodeTransformer):
    """Marks literals and counts steps; subclassed because that is Jinja's interface for it."""

    def __init__(self) -> None:
        self.literals: dict[str, Traced] = {}
        self._loops = 0

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return self._literal(node.data, node)

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        return self._literal(node.value, node) if isinstance(node.value, str) else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        node.node = self.visit(node.node)
        if not isinstance(node.arg, nodes.Const):  # a constant key prints nothing
            node.arg = self.visit(node.arg)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call(_CONCAT, list(node.nodes), node)

    def visit_For(self, node: nodes.For) -> list[nodes.Node]:
        self._loops += 1
        number = nodes.Const(self._loops)
        arguments: list[nodes.Expr] = [number]
        if isinstance(node.target, nodes.Name):
            arguments.append(nodes.Name(node.target.name, "load"))
        self.generic_visit(node)
        node.body.insert(0, _output(_call(_STEP, arguments, node), node))
        return [node, _output(_call(_LEAVE, [number], node), node)]

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, _output(_call(_STEP, [nodes.Const(0)], node), node))
        return node

    def _literal(self, text: str, node: nodes.Node) -> nodes.Node:
        name = f"{_LITERAL}{len(self.literals)}"
        self.literals[name] = traced(text, LITERAL)
        return nodes.Name(name, "load").set_lineno(node.lineno)


def _call(name: str, arguments: list[nodes.Expr], at: nodes.Node) -> nodes.Call:
    call = nodes.Call(nodes.Name(name, "load"), arguments, [], None, None)
    call.set_lineno(at.lineno)
    return call


def _output(expression: nodes.Expr, at: nodes.Node) -> nodes.Output:
    output = nodes.Output([expression])
    output.set_lineno(at.lineno)
    return output


def _concat(*parts: object) -> Traced:
    return concat(parts)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text; spans say the same, so it is only a scope."""

    tags = {"generation"}  # noqa: RUF012 - the attribute Jinja reads

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox; operators through which a value grows without a loop are checked first."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(concat)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sized = (str, list, tuple)
        if operator == "*":
            for value, count in ((left, right), (right, left)):
                if isinstance(value, sized) and isinstance(count, int):
                    limit_size(len(value) * max(0, count))
            if isinstance(left, int) and isinstance(right, int):
                limit_size(left.bit_length() + right.bit_length())
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            limit_size(left.bit_length() * max(0, right))
        elif operator == "%" and isinstance(left, str):
            _limit_format(left)
            limit_nodes(right)
        elif operator == "+" and isinstance(left, sized) and isinstance(right, sized):
            limit_size(len(left) + len(right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # Methods of plain strings can make long ones: 'x'.center(10 ** 9), '{:9999999}'.format(1).
        # (Jinja hands out `str.format` wrapped, with the method in `__wrapped__`.)
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(owner, str):
            for value in (*args, *kwargs.values()):
                if isinstance(value, int):
                    limit_size(abs(value))
                limit_nodes(value)
            if getattr(__obj, "__name__", "") in ("format", "format_map"):
                _limit_format(owner)
            elif getattr(__obj, "__name__", "") == "replace" and len(args) >= 2:
                limit_size(len(owner) + owner.count(str(args[0])) * len(str(args[1])))
        return super().call(__context, __obj, *args, **kwargs)


def _limit_format(pattern: str) -> None:
    if re.search(r"[0-9]{6}", pattern) or "*" in pattern:
        raise TemplateError(
            f"the chat template formats with a width that is too large: {pattern[:80]!r}"
        )


def _raise_exception(message: object) -> str:
    raise jinja2.TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    if re.search(r"%[^a-zA-Z%]*[0-9]", pattern):
        raise TemplateError(f"the chat template asks for a date with a width: {pattern[:80]!r}")
    text = datetime.now().strftime(pattern)
    ours = all(run.origin is LITERAL for run in runs_of(pattern))
    return traced(text, LITERAL) if ours else text


@jinja2.pass_context
def _to_json(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(indent, int):
        limit_size(max(0, indent) * 1000)
    meter: Meter = context.parent[_METER]
    origins: list[Origin] = []
    for item in limit_nodes(value):
        if isinstance(item, str):
            origins.extend(run.origin for run in runs_of(item))
        elif id(item) in meter.containers:
            origins.append(meter.containers[id(item)])
    text = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    limit_size(len(text))
    return traced(text, mixed(origins))


def _join(value: Any, d: str = "", attribute: str | int | None = None) -> str:
    items = value if attribute is None else map(make_attrgetter(_ENVIRONMENT, attribute), value)
    return Traced(d, runs_of(d)).join([text_of(item) for item in items])


def _limited(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose numbers size its result."""

    def limited(value: Any, *args: Any, **kwargs: Any) -> Any:
        for item in (*args, *kwargs.values()):
            if isinstance(item, int):
                limit_size(abs(item) * 1000)
        return filter_(value, *args, **kwargs)

    return limited


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    text = text_of(value)
    _limit_format(text)
    limit_nodes([args, kwargs])
    return Traced(str.__mod__(text, kwargs or args), None)


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, loopcontrols],
        finalize=text_of,
    )
    filters = cast(dict[str, Any], environment.filters)
    filters.update({"tojson": _to_json, "join": _join, "string": text_of, "format": _format})
    for name in ("center", "batch", "slice", "indent"):
        filters[name] = _limited(filters[name])
    names = cast(dict[str, Any], environment.globals)
    names.pop("lipsum")  # random text of any length is no part of a prompt
    names.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment


_ENVIRONMENT = _environment()
